"""Rewrites that keep what a graph computes: Gemm as MatMul, and weights in a narrower store."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...onnx import graph


def gemm_as_matmul(model: onnx.ModelProto) -> None:
    """Write each plain Gemm with a constant weight as MatMul and Add, in place: quantizers know MatMul only."""
    weights = graph.float_weights(model)
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in model.graph.node:
        plain = graph.attribute(node, "alpha", 1.0) == graph.attribute(node, "beta", 1.0) == 1.0
        if (
            node.op_type != "Gemm"
            or not plain
            or graph.attribute(node, "transA", 0)
            or node.input[1] not in weights
        ):
            nodes.append(node)
            continue
        name = node.input[1]
        if graph.attribute(node, "transB", 0):
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
    graph.replace_nodes(model, nodes)
    graph.remove_weights(model, replaced - graph.readers(model).keys())


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
    reads = graph.readers(model)
    tables = {
        name: tensor
        for name, tensor in graph.float_weights(model).items()
        if len(tensor.dims) == 2 and graph.is_table(reads.get(name, ()))
    }
    for name, tensor in tables.items():
        narrow, scale = _int8(numpy_helper.to_array(tensor))
        model.graph.initializer.extend(
            [numpy_helper.from_array(narrow, f"{name}_int8"), numpy_helper.from_array(scale, f"{name}_scale")]
        )
    _look_up(model, tables, "_int8", "DequantizeLinear", lambda name: ([f"{name}_scale"], {"axis": -1}))
    graph.remove_weights(model, tables.keys())
    return len(tables)


def int8_filters(model: onnx.ModelProto) -> int:
    """Store convolutions' filters in int8 with one scale an output channel, in place; the number of filters.

    They are dequantized to float at every inference, which is little beside the convolution itself.
    """
    weights, reads = graph.float_weights(model), graph.readers(model)
    nodes: list[onnx.NodeProto] = []
    for name, tensor in weights.items():
        kinds = {(node.op_type, position) for node, position in reads.get(name, ())}
        if kinds != {("Conv", 1)} or int(np.prod(tensor.dims)) < graph.SMALLEST:
            continue
        value = numpy_helper.to_array(tensor)
        narrow, scale = _int8(value.reshape(len(value), -1).T)
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.ascontiguousarray(narrow.T).reshape(value.shape), f"{name}_int8"),
                numpy_helper.from_array(scale, f"{name}_scale"),
            ]
        )
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], f"{name}_widen", axis=0
            )
        )
    graph.replace_nodes(model, [*nodes, *model.graph.node])
    graph.remove_weights(model, {node.output[0] for node in nodes})
    return len(nodes)


def _int8(value: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A matrix as symmetric int8, and the scale of each of its columns."""
    scale = np.maximum(np.abs(value).max(axis=0) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.rint(value / scale), -127, 127).astype(np.int8), scale


def half_weights(model: onnx.ModelProto) -> tuple[str, ...]:
    """Store float weights of `graph.SMALLEST` elements or more as float16, in place, and cast them when loaded.

    ONNX Runtime casts stored weights once, when it loads the file, and computes in float32, for which every
    CPU has kernels. Weights with values that float16 cannot hold (beyond 65504) stay as they are; returns
    their names.
    """
    reads = graph.readers(model)
    tables: set[str] = set()
    casts: list[onnx.NodeProto] = []
    halved: set[str] = set()
    beyond: list[str] = []
    for name, tensor in graph.float_weights(model).items():
        value = numpy_helper.to_array(tensor)
        if value.size < graph.SMALLEST or name not in reads:
            continue
        if float(np.abs(value).max()) > float(np.finfo(np.float16).max):
            beyond.append(name)
            continue
        halved.add(name)
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float16), f"{name}_half"))
        if graph.is_table(reads[name]):
            tables.add(name)
        else:
            casts.append(
                helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT)
            )
    _look_up(model, tables, "_half", "Cast", lambda name: ([], {"to": onnx.TensorProto.FLOAT}))
    graph.replace_nodes(model, [*casts, *model.graph.node])
    graph.remove_weights(model, halved)
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
    graph.replace_nodes(model, nodes)
