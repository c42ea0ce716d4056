"""What is in an ONNX graph, and the few ways to change it that the schemes share."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from . import files

Read = tuple[onnx.NodeProto, int]
"""A node and the position of the input by which it reads a value; -1 when a subgraph of it does."""


def float_weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The float32 initializers of the main graph by name."""
    return {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def readers(model: onnx.ModelProto) -> dict[str, list[Read]]:
    """The nodes of the main graph that read each value."""
    found: dict[str, list[Read]] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            found.setdefault(name, []).append((node, position))
        for name in files.reads(node) - set(node.input):
            found.setdefault(name, []).append((node, -1))
    return found


def is_table(reads: Collection[Read]) -> bool:
    """Whether all who read a weight look rows up in it."""
    return bool(reads) and all(
        node.op_type == "Gather" and position == 0 and attribute(node, "axis", 0) == 0
        for node, position in reads
    )


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, or `default`."""
    given = (found for found in node.attribute if found.name == name)
    return next(map(helper.get_attribute_value, given), default)


def replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make `nodes`, which may be the graph's own, the graph's nodes."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def remove_weights(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Remove initializers by name."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def drop_unread(model: onnx.ModelProto) -> None:
    """Remove initializers that nobody reads and that are no output."""
    read = readers(model).keys() | {value.name for value in model.graph.output}
    remove_weights(model, {tensor.name for tensor in model.graph.initializer} - read)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node of the main graph a name of its own: quantizers choose nodes by name."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}_{node.output[0]}"
        seen.add(node.name)


def fix_weights(model: onnx.ModelProto) -> None:
    """Take initializers out of the inputs: old files list them there, as values a caller may override."""
    stored = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in stored]
    if len(fed) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(fed)


def gemm_as_matmul(model: onnx.ModelProto) -> None:
    """Write each plain Gemm with a constant weight as MatMul and Add, in place: quantizers know MatMul only."""
    weights = float_weights(model)
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in model.graph.node:
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        if (
            node.op_type != "Gemm"
            or not plain
            or attribute(node, "transA", 0)
            or node.input[1] not in weights
        ):
            nodes.append(node)
            continue
        name = node.input[1]
        if attribute(node, "transB", 0):
            replaced.add(name)
            name = _transposed(model, weights, name)
        biased = len(node.input) > 2 and bool(node.input[2])
        product = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], node.name))
        if biased:
            nodes.append(
                helper.make_node("Add", [product, node.input[2]], [node.output[0]], f"{node.name}_bias")
            )
            _declare_like(model, product, node.output[0])
    replace_nodes(model, nodes)
    remove_weights(model, replaced - readers(model).keys())


def _transposed(model: onnx.ModelProto, weights: dict[str, onnx.TensorProto], name: str) -> str:
    """Name of the transpose of a stored matrix, stored as well."""
    turned = f"{name}_transposed"
    if turned not in weights:
        value = np.ascontiguousarray(numpy_helper.to_array(weights[name]).T)
        model.graph.initializer.append(numpy_helper.from_array(value, turned))
        weights[turned] = model.graph.initializer[-1]
    return turned


def _declare_like(model: onnx.ModelProto, name: str, other: str) -> None:
    """Give the new value `name` the type and shape of `other`."""
    for value in (*model.graph.value_info, *model.graph.output):
        if value.name == other:
            copy = model.graph.value_info.add()
            copy.CopyFrom(value)
            copy.name = name
            return


def int8_tables(model: onnx.ModelProto) -> int:
    """Store look-up tables in int8 with one scale a column, in place; the number of tables.

    Only the rows that were looked up are dequantized. A DequantizeLinear before the Gather, as a quantizer
    would write it, makes floats of the whole table at every inference.
    """
    reads = readers(model)
    tables = {
        name: tensor
        for name, tensor in float_weights(model).items()
        if len(tensor.dims) == 2 and is_table(reads.get(name, ()))
    }
    for name, tensor in tables.items():
        value = numpy_helper.to_array(tensor)
        scale = np.maximum(np.abs(value).max(axis=0) / 127, np.finfo(np.float32).tiny).astype(np.float32)
        narrow = np.clip(np.rint(value / scale), -127, 127).astype(np.int8)
        model.graph.initializer.extend(
            [numpy_helper.from_array(narrow, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
        )
    _look_up(model, tables, "_int8", "DequantizeLinear", lambda name: ([f"{name}_scale"], {"axis": -1}))
    remove_weights(model, tables.keys())
    return len(tables)


def half_weights(model: onnx.ModelProto, smallest: int = 16) -> tuple[str, ...]:
    """Store float weights of `smallest` elements or more as float16, in place, and cast them when loaded.

    ONNX Runtime casts stored weights once, when it loads the file, and computes in float32, for which every
    CPU has kernels. Weights with values that float16 cannot hold (beyond 65504) stay as they are; returns
    their names.
    """
    reads = readers(model)
    tables: set[str] = set()
    casts: list[onnx.NodeProto] = []
    halved: set[str] = set()
    beyond: list[str] = []
    for name, tensor in float_weights(model).items():
        value = numpy_helper.to_array(tensor)
        if value.size < smallest or name not in reads:
            continue
        if float(np.abs(value).max()) > float(np.finfo(np.float16).max):
            beyond.append(name)
            continue
        halved.add(name)
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float16), f"{name}_half"))
        if is_table(reads[name]):
            tables.add(name)
        else:
            casts.append(
                helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT)
            )
    _look_up(model, tables, "_half", "Cast", lambda name: ([], {"to": onnx.TensorProto.FLOAT}))
    replace_nodes(model, [*casts, *model.graph.node])
    remove_weights(model, halved)
    return tuple(beyond)


def _look_up(model: onnx.ModelProto, tables: Collection[str], suffix: str, operator: str, extra: Any) -> None:
    """Let each Gather from a table read the narrow form instead, and `operator` widen what it found."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0] in tables:
            inputs, attributes = extra(node.input[0])
            found = node.output[0]
            node.input[0] += suffix
            node.output[0] = f"{found}{suffix}"
            nodes.append(
                helper.make_node(
                    operator, [node.output[0], *inputs], [found], f"{node.name or found}_widen", **attributes
                )
            )
    replace_nodes(model, nodes)
