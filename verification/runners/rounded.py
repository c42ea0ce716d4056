"""A graph in float16 or bfloat16 as one in float32 that rounds every result: what a CPU can compute of it.

ONNX Runtime's CPU provider has few half kernels. It computes such graphs in float32 and drops the casts between, so
neither rounding nor overflow would be seen: sqrt(1000 * 1000) in float16 is 1000 there, and infinity on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

T = onnx.TensorProto
HALVES = (T.FLOAT16, T.BFLOAT16)


def halves(model: onnx.ModelProto) -> dict[str, int]:
    """The values of the main graph that are half floats, with their type; needs the file's value types."""
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    kinds.update((tensor.name, tensor.data_type) for tensor in model.graph.initializer)
    return {name: kind for name, kind in kinds.items() if kind in HALVES}


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The twin: stored halves widened (exactly), and every half result computed in float32 and then rounded.

    Sums inside an operator are float32, as a tensor core's are. Halves among inputs and outputs stay what they are.
    """
    narrow = halves(model)
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    edges = {value.name for value in (*twin.graph.input, *twin.graph.output)}
    for tensor in twin.graph.initializer:
        if tensor.data_type in HALVES:
            tensor.CopyFrom(_widened(tensor))
    nodes = list(_nodes(model, {name: kind for name, kind in narrow.items() if name not in edges}))
    del twin.graph.node[:]
    twin.graph.node.extend(nodes)
    del twin.graph.value_info[:]
    return twin


def _nodes(model: onnx.ModelProto, narrow: dict[str, int]) -> Iterator[onnx.NodeProto]:
    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        made = [name for name in node.output if name in narrow]
        if node.op_type == "Cast" and made:
            # The cast itself rounds; what it gives is widened again.
            (name,) = made
            node.output[0] = f"{name}_rounded"
            yield node
            yield helper.make_node("Cast", [f"{name}_rounded"], [name], f"{name}_widen", to=T.FLOAT)
            continue
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type in HALVES:
                attribute.t.CopyFrom(_widened(attribute.t))
        for position, name in enumerate(node.output):
            if name in narrow:
                node.output[position] = f"{name}_exact"
        yield node
        for name in made:
            yield helper.make_node(
                "Cast", [f"{name}_exact"], [f"{name}_rounded"], f"{name}_round", to=narrow[name]
            )
            yield helper.make_node("Cast", [f"{name}_rounded"], [name], f"{name}_widen", to=T.FLOAT)


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    value: np.ndarray[Any, Any] = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(value.astype(np.float32), tensor.name)
