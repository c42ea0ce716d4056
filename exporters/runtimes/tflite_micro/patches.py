"""Patch-wise execution, estimated: the first operators run on one piece of the image at a time.

Lin et al., "MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning" (arXiv:2110.15352): an output
patch needs an input patch that is larger by the receptive field's margin, and neighbours compute that margin twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...litert.flatbuffer import Graph, Op

COUNTS = (2, 3, 4)
"""Patches along each side that are looked at."""
SPATIAL = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
    "ADD",
    "MUL",
    "RELU",
    "RELU6",
    "PAD",
)


@dataclass(frozen=True)
class Patching:
    """One way to cut: so many operators, so many patches along each side."""

    operators: int
    patches: int
    peak: int
    """Bytes of activations alive at the most."""
    extra_share: float
    """Multiply-accumulates on top, as a share of the model's."""


def best(graph: Graph, room: int) -> Patching | None:
    """The cheapest way whose peak stays within `room` bytes; None where there is none, or no image to cut."""
    found = [
        each
        for end in range(2, _stage(graph) + 1)
        for count in COUNTS
        if (each := estimate(graph, end, count)) is not None and each.peak <= room
    ]
    return min(found, key=lambda each: (each.extra_share, each.peak), default=None)


def _stage(graph: Graph) -> int:
    """How many of the first operators are a chain of spatial ones (residual additions inside are fine)."""
    for number, op in enumerate(graph.ops):
        if op.kind not in SPATIAL or len(graph.shape(op.outputs[0])) != 4:
            return number
    return len(graph.ops)


def estimate(graph: Graph, end: int, count: int) -> Patching | None:
    """The first `end` operators in `count` x `count` patches; None where a tensor besides their last goes on."""
    stage, rest = graph.ops[:end], graph.ops[end:]
    last = stage[-1].outputs[0]
    crossing = {t for op in rest for t in op.inputs if t >= 0} | set(graph.outputs)
    if any(t in crossing and t != last for op in stage for t in op.outputs):
        return None
    sides = _sides(graph, stage, count)
    piece = {t: _area_share(graph, t, side) for t, side in sides.items()}
    inside = max(
        sum(_bytes(graph, t) * piece.get(t, 1.0) for t in _alive(graph, stage, index))
        for index in range(len(stage))
    )
    # The input is read piece by piece (from a camera or flash); the stage's output is assembled whole.
    before = inside + _bytes(graph, last)
    after = max(
        (sum(_bytes(graph, t) for t in _alive(graph, graph.ops, end + index)) for index in range(len(rest))),
        default=0,
    )
    macs = [multiply_accumulates(graph, op) for op in graph.ops]
    repeated = sum(
        macs[index] * max(count * count * piece[op.outputs[0]] - 1, 0.0) for index, op in enumerate(stage)
    )
    return Patching(end, count, round(max(before, after)), repeated / max(sum(macs), 1))


def _sides(graph: Graph, stage: tuple[Op, ...], count: int) -> dict[int, float]:
    """Height (in rows) of every tensor's patch, from the stage's output back to its input."""
    last = stage[-1].outputs[0]
    rows: dict[int, float] = {last: math.ceil(graph.shape(last)[1] / count)}
    for op in reversed(stage):
        wanted = rows.get(op.outputs[0])
        if wanted is None:
            continue
        for tensor in op.inputs:
            shape = graph.shape(tensor) if tensor >= 0 else ()
            if len(shape) != 4 or graph.is_constant(tensor):
                continue
            stride = max(round(shape[1] / graph.shape(op.outputs[0])[1]), 1)
            need = (wanted - 1) * stride + _kernel(graph, op)
            rows[tensor] = min(max(rows.get(tensor, 0), need), shape[1])
    return rows


def _kernel(graph: Graph, op: Op) -> int:
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return graph.shape(op.inputs[1])[1]
    options = graph.subgraph.operators[op.index].builtinOptions
    return int(options.filterHeight) if "POOL" in op.kind else 1


def _area_share(graph: Graph, tensor: int, rows: float) -> float:
    return min(rows / graph.shape(tensor)[1], 1.0) ** 2


def _alive(graph: Graph, ops: tuple[Op, ...], index: int) -> set[int]:
    """Activations that exist while `ops[index]` runs."""
    made = {t for op in ops[: index + 1] for t in op.outputs} | set(graph.inputs)
    later = {t for op in ops[index:] for t in op.inputs if t >= 0} | set(graph.outputs)
    return {t for t in made & later if not graph.is_constant(t)} | set(ops[index].outputs)


def _bytes(graph: Graph, tensor: int) -> int:
    from ai_edge_litert import schema_py_generated as schema

    wide = graph.subgraph.tensors[tensor].type == schema.TensorType.INT16
    return math.prod(graph.shape(tensor)) * (2 if wide else 1)


def multiply_accumulates(graph: Graph, op: Op) -> int:
    """Multiply-accumulates of one operator; 0 for those that do not multiply."""
    out = math.prod(graph.shape(op.outputs[0]))
    if op.kind == "CONV_2D":
        return out * math.prod(graph.shape(op.inputs[1])[1:])
    if op.kind == "DEPTHWISE_CONV_2D":
        return out * math.prod(graph.shape(op.inputs[1])[1:3])
    if op.kind == "FULLY_CONNECTED":
        return out * graph.shape(op.inputs[1])[-1]
    if op.kind == "TRANSPOSE_CONV":
        return math.prod(graph.shape(op.inputs[2])) * math.prod(graph.shape(op.inputs[1])[:3])
    return 0
