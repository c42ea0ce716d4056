"""From a quantized model to what the board gets: the order of operators, the arena, and what would still help."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....targets.figures import size
from ...litert import flatbuffer
from ...litert.flatbuffer import Graph
from . import flash, patches, reorder, scratch
from .arena import ArenaPlan, plan, with_offline_plan
from .cpp import ArenaSize

POINTER = 4
"""Bytes of a pointer on every board of the catalogue."""


@dataclass(frozen=True)
class Rung:
    """One thing to do about an arena that is too large."""

    name: str
    applied: bool
    """Whether the file was written so; otherwise it is a suggestion."""
    arena_bytes: int | None
    """The arena after it; exact where it was applied, an estimate otherwise; None where it cannot be told."""
    saves_bytes: int | None
    costs: str
    """What it costs, as a sentence."""


@dataclass(frozen=True)
class Climb:
    """The model as it will be written, its arena, and the rungs that were tried or would help."""

    model: Any
    plan: ArenaPlan
    """With pointers of 4 bytes."""
    size: ArenaSize
    kinds: tuple[str, ...]
    rungs: tuple[Rung, ...]
    flash_code: int
    peak_tensor: str
    """The largest tensor at the peak as people find it: what computes it, and its shape."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What happened, for the report."""
        return tuple(
            f"{rung.name}: saves {size(rung.saves_bytes or 0)} of the arena; {rung.costs}"
            for rung in self.rungs
            if rung.applied
        )

    def entry(self) -> dict[str, Any]:
        """The manifest's `arena`, in bytes; `scratch` and `code` are estimates."""
        found = self.plan
        return {
            "bytes": found.needed,
            "used": found.total,
            "head": found.head,
            "tail": found.tail,
            "bytes_64bit": self.size.bits64,
            "scratch": self.size.scratch,
            "code": self.flash_code,
            "peak": {
                "tensor": self.peak_tensor,
                "tensor_bytes": found.peak_tensor_bytes,
                "operator": found.peak_operator,
            },
            "rungs": [dataclasses.asdict(rung) for rung in self.rungs],
        }


def climb(model: Any, options: Mapping[str, Any]) -> Climb:
    """Plan the arena; with `options["fit"]`, first put the operators in the order with the lowest peak.

    `options["offline_plan"]` writes the plan into the model's metadata, so that the device plans nothing.
    `options["ram_bytes"]` is what the device can give. Where the arena takes more, the other rungs are added as
    suggestions, each with what it would save and cost. `model` (ModelT) has its tensors' names still.
    """
    rungs: list[Rung] = []
    now = plan(flatbuffer.write(model), POINTER)
    if options.get("fit"):
        model, now, rung = _reordered(model, now)
        rungs.append(rung)
    if options.get("offline_plan"):
        model = with_offline_plan(model, now)
        now = plan(flatbuffer.write(model), POINTER)
    limit = options.get("ram_bytes")
    graph = Graph(model)
    if limit is not None and now.needed > int(limit):
        rungs += suggestions(graph, now, int(limit))
    kinds = tuple(sorted({op.kind for op in graph.ops}))
    wide = plan(flatbuffer.write(model), 8)
    return Climb(
        model=model,
        plan=now,
        size=ArenaSize(now.needed, wide.needed, scratch.most(graph)),
        kinds=kinds,
        rungs=tuple(rungs),
        flash_code=flash.code_bytes(kinds),
        peak_tensor=_named(graph, now),
    )


def _named(graph: Graph, found: ArenaPlan) -> str:
    """The peak's largest buffer, as in "the output of CONV_2D (operator 3), 1 x 8 x 8 x 16"."""
    for placed in found.buffers:
        if placed.name != found.peak_tensor or placed.bytes != found.peak_tensor_bytes or not placed.tensor:
            continue
        tensor = placed.tensor[1]
        maker = graph.producer.get(tensor)
        what = f"the output of {maker.kind} (operator {maker.index})" if maker else "the input"
        return f"{what}, {' x '.join(map(str, graph.shape(tensor)))}"
    return found.peak_tensor


def _reordered(model: Any, before: ArenaPlan) -> tuple[Any, ArenaPlan, Rung]:
    """The model in its best order where the planner makes less of it, and the rung that says so."""
    other = copy.deepcopy(model)
    free = "the same operators in another order compute the same"
    if reorder.apply(other):
        after = plan(flatbuffer.write(other), POINTER)
        if after.needed < before.needed:
            saved = before.needed - after.needed
            return other, after, Rung("operators reordered", True, after.needed, saved, free)
    return model, before, Rung("operators reordered", False, before.needed, 0, "no order has a lower peak")


def suggestions(graph: Graph, now: ArenaPlan, limit: int) -> list[Rung]:
    """What would bring the arena down to `limit`, from the shapes of the graph."""
    found = []
    room = limit - now.tail
    image = _image(graph)
    best = patches.best(graph, room)
    if best is not None:
        found.append(
            Rung(
                f"run the first {best.operators} operators patch by patch ({best.patches} x {best.patches})",
                False,
                best.peak + now.tail,
                now.needed - best.peak - now.tail,
                f"{best.extra_share:.0%} more multiply-accumulates, for edges that patches share; "
                "TensorFlow Lite Micro does not do it, TinyEngine does (an estimate: Lin et al., arXiv:2110.15352)",
            )
        )
    if image is not None and room > 0:
        side, smaller = _resolution(image, now.head, room)
        if smaller:
            head = round(now.head * (smaller / side) ** 2)
            found.append(
                Rung(
                    f"an input of {smaller} x {smaller} instead of {side} x {side} pixels",
                    False,
                    head + now.tail,
                    now.head - head,
                    "accuracy on small details; train or fine-tune at that size",
                )
            )
    if 0 < room < now.head:
        width = math.floor(20 * room / now.head) / 20
        if width >= 0.1:
            found.append(
                Rung(
                    f"{width:g} of the channels in every layer",
                    False,
                    round(now.head * width) + now.tail,
                    now.head - round(now.head * width),
                    "accuracy; train anew at that width (weights shrink with its square)",
                )
            )
    return found


def _image(graph: Graph) -> tuple[int, int] | None:
    """Height and width of the one image input, or None."""
    for tensor in graph.inputs:
        shape = graph.shape(tensor)
        if len(shape) == 4:
            # Channels are the smallest axis, first or last.
            return (shape[1], shape[2]) if shape[3] <= shape[1] else (shape[2], shape[3])
    return None


def _resolution(image: tuple[int, int], head: int, room: int) -> tuple[int, int]:
    """The input's longer side, and the largest multiple of 8 whose square shrinks the arena enough (0: none)."""
    side = max(image)
    wanted = math.floor(side * math.sqrt(room / head) / 8) * 8
    return side, wanted if 8 <= wanted < side else 0
