"""What is in an ONNX graph: weights, who reads them, attributes; and replacing nodes and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import onnx
from onnx import helper

from . import files

SMALLEST = 16
"""Elements from which a stored tensor counts as a weight; below are the numbers of the graph itself."""

NORMS = frozenset(
    {"LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization",
     "SkipSimplifiedLayerNormalization", "GroupNormalization", "InstanceNormalization", "Attention",
     "MultiHeadAttention", "LpNormalization"}
)  # fmt: skip
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


def mixes(model: onnx.ModelProto) -> bool:
    """Whether the graph normalises or attends at run time.

    The activations of such graphs have outliers in a few channels, which one scale a tensor serves badly, and
    their softmax, norms and GELU want more than 8 bits: only products are computed in int8 there.
    """
    kinds = Counter(node.op_type for node in model.graph.node)
    if NORMS & kinds.keys() or (kinds["ReduceMean"] > 1 and kinds["Sqrt"] and kinds["Div"]):
        return True
    reads = readers(model)
    return any(
        reader.op_type == "MatMul"
        for node in model.graph.node
        if node.op_type == "Softmax"
        for reader, _ in reads.get(node.output[0], ())
    )
