"""Where quantize and dequantize stand, by TensorRT's published rules: what is quantized, and who reads it so.

NVIDIA TensorRT documentation, "Explicit Quantization", section "Q/DQ Layer-Placement Recommendations", and the
placement of NVIDIA's own quantizers (TensorRT Model Optimizer, `build_non_residual_input_map`; TensorFlow
Quantization Toolkit, `ResNetV1QDQCase`) are the sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import onnx

from ...onnx import graph

Read = tuple[str, int]
"""One input of one node, by the node's name and the input's position."""


@dataclass(frozen=True)
class Placement:
    """What a graph quantizes. Names are values' and nodes'; every node has a name of its own."""

    activations: Mapping[str, tuple[Read, ...]]
    """Values quantized per tensor, in graph order, and the inputs that read them dequantized."""
    weights: Mapping[tuple[str, int], tuple[Read, ...]]
    """Stored weights with the axis of their output channels, and the inputs that read them dequantized."""


def place(model: onnx.ModelProto, *, narrow_only: bool = False) -> Placement:
    """What to quantize in a float graph whose batch normalisations are folded (`shapes.prepared`).

    Both inputs of every product with a weight are quantized, its bias and its result are not ("Quantize all
    inputs of weighted-operations", "By default, do not quantize the outputs of weighted-operations"); nothing
    stands between a convolution and its activation ("do not simulate batch normalization and ReLU fusions").
    Graphs that normalise or attend (`graph.mixes`) keep all else in float: 8 bits are too few for their sums.
    `narrow_only` is fp8: convolutions for which there are no fp8 kernels stay float (`_has_float8`), and so do
    additions that no convolution is fused with.
    """
    weights: dict[tuple[str, int], list[Read]] = {}
    activations: dict[str, list[Read]] = {}
    found = dict(products(model))
    if narrow_only:
        found = {name: axis for name, axis in found.items() if _has_float8(model, name)}
    for node in model.graph.node:
        if node.name in found:
            activations.setdefault(node.input[0], []).append((node.name, 0))
            weights.setdefault((node.input[1], found[node.name]), []).append((node.name, 1))
    if not graph.mixes(model):
        for name, position, value in residual_inputs(model, frozenset(found), fused_only=narrow_only):
            activations.setdefault(value, []).append((name, position))
    return Placement(
        {name: tuple(reads) for name, reads in activations.items()},
        {name: tuple(reads) for name, reads in weights.items()},
    )


def products(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Nodes that multiply an activation with a stored float weight, and the weight's output channel axis.

    Products of two activations (attention) and Gemms that scale or transpose their first input are left out.
    """
    weights = graph.float_weights(model)
    for node in model.graph.node:
        if len(node.input) < 2 or node.input[1] not in weights or node.input[0] in weights:
            continue
        rank = len(weights[node.input[1]].dims)
        if node.op_type == "Conv" and rank >= 3:
            yield node.name, 0
        elif rank >= 3 and node.op_type == "ConvTranspose" and graph.attribute(node, "group", 1) == 1:
            yield node.name, 1
        elif node.op_type == "Gemm" and _plain(node):
            yield node.name, 0 if graph.attribute(node, "transB", 0) else 1
        elif rank == 2 and node.op_type == "MatMul":
            yield node.name, 1


def _has_float8(model: onnx.ModelProto, name: str) -> bool:
    """Whether a product has a float8 kernel: convolutions want 16 channels on both sides and less than 32 taps.

    TensorRT Model Optimizer's `find_nodes_from_convs_to_exclude`.
    """
    node = next(node for node in model.graph.node if node.name == name)
    if node.op_type not in ("Conv", "ConvTranspose"):
        return True
    out, each, *kernel = graph.float_weights(model)[node.input[1]].dims
    return bool(node.op_type == "Conv" and min(out, each) >= 16 and prod(kernel) < 32)


def _plain(node: onnx.NodeProto) -> bool:
    return (
        graph.attribute(node, "alpha", 1.0) == 1.0
        and (graph.attribute(node, "beta", 1.0) == 1.0 or len(node.input) < 3)
        and not graph.attribute(node, "transA", 0)
    )


def residual_inputs(
    model: onnx.ModelProto, found: frozenset[str], *, fused_only: bool = False
) -> Iterator[tuple[str, int, str]]:
    """Inputs of residual additions to quantize: node, position, value.

    TensorRT fuses a convolution with the addition behind it, and the other, residual input's precision decides
    in which one the fusion gives its result ("Quantize the residual input in skip-connections"): so the residual
    is quantized and the convolution's own result is not, since a Q there would keep the two apart. Where no
    convolution can be fused, both inputs are quantized, as for every other quantizable layer, or none (`fused_only`).
    """
    reads, depth = graph.readers(model), _depths(model, found)
    makers = {name: node for node in model.graph.node for name in node.output}
    kinds = {
        value.name: value.type.tensor_type
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    given = {value.name for value in model.graph.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Add" or not _same_activations(node, kinds, stored):
            continue
        fusible = [
            position
            for position, value in enumerate(node.input)
            if value in makers
            and makers[value].name in found
            and makers[value].op_type in ("Conv", "ConvTranspose")
            and len(reads[value]) == 1
            and value not in given
        ]
        # Of two convolutions the one behind the longer branch is fused: the other is the shortcut's.
        fused = max(fusible, key=lambda position: (depth[node.input[position]], -position), default=-1)
        for position, value in enumerate(node.input):
            if position != fused and not (fused_only and fused < 0):
                yield node.name, position, value


def _same_activations(
    node: onnx.NodeProto, kinds: Mapping[str, onnx.TypeProto.Tensor], stored: set[str]
) -> bool:
    """Whether both inputs are float activations of one shape: a bias or a broadcast is no residual."""
    if any(name in stored or name not in kinds for name in node.input):
        return False
    first, second = (kinds[name] for name in node.input)
    return bool(
        first.elem_type == second.elem_type == onnx.TensorProto.FLOAT
        and len(first.shape.dim) > 1
        and list(first.shape.dim) == list(second.shape.dim)
    )


def _depths(model: onnx.ModelProto, found: frozenset[str]) -> Counter[str]:
    """How many products lie on the longest way to each value."""
    depth: Counter[str] = Counter()
    for node in model.graph.node:
        reached = max((depth[name] for name in node.input), default=0) + (node.name in found)
        depth.update(dict.fromkeys(node.output, reached))
    return depth
