"""A float model to the scheme that was asked for, by ai-edge-quantizer, with our ranges and our rules."""

from __future__ import annotations

from typing import Any

from ....targets.errors import Unsupported, UsageError
from ...job import Job, Progress
from ...litert import apply, flatbuffer, ranges, recipes
from ...litert.convert import FloatModel
from ...litert.flatbuffer import Graph, counted
from . import embedding

SCHEMES = ("fp32", "fp16", "int8", "int8-dynamic", "int8-weight", "int4-weight")
STORED: dict[str, tuple[str, ...]] = {
    "fp16": ("FLOAT16",),
    "int8": ("INT8",),
    "int8-dynamic": ("INT8",),
    "int8-weight": ("INT8",),
    "int4-weight": ("INT4", "INT8"),
}
"""Types of the weights that a scheme is about."""


def quantize(source: FloatModel, job: Job, progress: Progress) -> tuple[Any, tuple[str, ...]]:
    """The model (ModelT) in the scheme `job.quant`, and what the user should know about it.

    Static int8 reads the calibration samples of `job.samples` with `options["observer"]` ("minmax").
    Raises Unsupported for a scheme that this format lacks or that would leave most weights in float.
    """
    if job.quant not in SCHEMES:
        raise Unsupported(
            f"there is no scheme {job.quant!r} for .tflite files",
            where="--quant",
            mend=f"Known are {', '.join(SCHEMES)}",
        )
    if job.quant == "fp32":
        return source.model, ()
    if embedding.use_lookups(source.model):
        flatbuffer.make_names_unique(source.model)
    data = flatbuffer.write(source.model)
    graph = Graph(flatbuffer.read(data))
    statistics = None
    notes: tuple[str, ...] = ()
    if job.quant == "int8":
        recipe, statistics, notes = _static(data, graph, source, job, progress)
    elif job.quant == "int8-dynamic":
        recipe = recipes.dynamic_recipe()
    elif job.quant == "int8-weight":
        recipe = recipes.weight_recipe()
    elif job.quant == "fp16":
        recipe, wide = recipes.half_recipe(graph)
        if wide:
            notes = (f"Kept in float32, since float16 ends at 65504: {counted(wide)}",)
    else:
        recipe, others = recipes.four_bit_recipe(graph)
        notes = ("int4 weights share a scale in blocks of 32 along the input axis",)
        if others:
            notes += (f"int8 instead of int4, for want of such a kernel or of blocks: {counted(others)}",)
    progress("quantize", 0, 1)
    quantized = flatbuffer.read(apply.apply(data, recipe, statistics))
    progress("quantize", 1, 1)
    _refuse_mostly_float(quantized, job.quant)
    return quantized, notes


def _static(
    data: bytes, graph: Graph, source: FloatModel, job: Job, progress: Progress
) -> tuple[recipes.Recipe, dict[str, Any], tuple[str, ...]]:
    if job.samples is None:
        raise UsageError(
            "static int8 needs calibration data",
            where="--calibration",
            mend="Give it, or choose int8-dynamic",
        )
    loops = [op for op in graph.ops if op.kind in ("WHILE", "IF")]
    if loops:
        raise Unsupported(
            f"static int8 does not reach into loops and branches, and this model has {counted(loops)}",
            where="--quant int8",
            mend="Choose int8-dynamic, or save a recurrent layer with unroll=True",
        )
    wanted = recipes.observed_tensors(graph, recipes.static_plan(graph))
    seen, note = ranges.observe(job, data, graph, wanted, source.inputs, progress)
    plan = recipes.static_plan(graph, seen)
    notes = [note]
    computing = [op for op in plan.left if op.kind not in recipes.MOVEMENT]
    if computing:
        notes.append(
            f"Left in float, since 8 bits are too few or no int8 kernel exists: {counted(computing)}"
        )
    if any(op in plan.coarse for op in plan.dynamic):
        notes.append(
            f"int8 with ranges found while running, since a few huge activations would swallow a fixed range: "
            f"{counted(op for op in plan.dynamic if op in plan.coarse)}. "
            "int8-dynamic treats every layer so and is the better choice for this model"
        )
    return recipes.static_recipe(graph, plan), ranges.statistics_by_name(graph, seen), tuple(notes)


def _refuse_mostly_float(model: Any, scheme: str) -> None:
    """Raise Unsupported where less than half of the weights' elements got the scheme's type."""
    reached, left = flatbuffer.weight_elements(model, STORED[scheme])
    total = reached + sum(left.values())
    if total and reached * 2 <= total:
        raise Unsupported(
            f"{scheme} would leave {1 - reached / total:.0%} of this model's weights in float: "
            f"LiteRT has no such form of {', '.join(left)}",
            where=f"--quant {scheme}",
            mend="Choose fp16 or fp32" if scheme != "fp16" else "Choose fp32",
        )
