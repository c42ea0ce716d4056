"""What of an ONNX graph is known before it runs: stored tensors, attributes, and nodes that read nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper

from ....targets.errors import Unsupported
from .call import Call, Refused
from .dtypes import to_numpy
from .operators import OPERATORS
from .stored import array_of

Array = np.ndarray[Any, Any]

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators whose result is not a function of their inputs."""


def attribute(raw: onnx.AttributeProto, folder: Path) -> Any:
    """A plain value: texts decoded, tensors as arrays, graphs as they are. External data lies in `folder`."""
    value = helper.get_attribute_value(raw)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if raw.type == onnx.AttributeProto.STRINGS:
        return [item.decode("utf-8", "replace") for item in value]
    if raw.type == onnx.AttributeProto.TENSOR:
        return array_of(value, folder)
    return list(value) if raw.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


def computed(node: onnx.NodeProto, call: Call) -> list[Any]:
    """The results of a node whose inputs are all known: by its function here, or by onnx's own reference.

    Raises Unsupported, naming the node, where neither computes it.
    """
    if node.op_type in OPERATORS and all(v is None or v.dtype.kind not in "OUS" for v in call.inputs):
        try:
            result = OPERATORS[node.op_type](call)
        except Refused:
            return _by_reference(node, call)
        found = result if isinstance(result, tuple) else (result,)
        return [to_numpy(value) if isinstance(value, torch.Tensor) else value for value in found]
    return _by_reference(node, call)


def _by_reference(node: onnx.NodeProto, call: Call) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    feeds = {name: v for name, v in zip(node.input, call.inputs, strict=True) if name}
    made = [name for name in node.output if name]
    graph = helper.make_graph(
        [node], "one", *([onnx.ValueInfoProto(name=name) for name in names] for names in (feeds, made))
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", call.opset)])
    try:
        found = iter(ReferenceEvaluator(model).run(None, feeds))
    except Exception as error:  # the reference raises errors of its own many classes
        raise Unsupported(f"{call.op} cannot be computed beforehand: {error}", where=call.where) from error
    return [next(found) if name else None for name in node.output]
