"""A float model as full-integer: every operator in int8, or in int8 weights with int16 activations."""

from __future__ import annotations

from typing import Any

from ....calibration.ranges import Range
from ....targets.errors import ConversionFailed, Unsupported, UsageError
from ...job import Job, Progress
from ...litert import apply, flatbuffer, ranges, recipes
from ...litert.convert import FloatModel
from ...litert.flatbuffer import Graph, counted

SMALLEST_SPAN = 6 * 255 / 2**31
"""A range of 8 bits below which ReLU6's end is no int32 in the range's scale."""

ACTIVATION_BITS = {"int8": 8, "int16x8": 16}
"""Bits of the values between operators, by scheme; weights have 8."""


def quantize(source: FloatModel, job: Job, progress: Progress) -> tuple[Any, tuple[str, ...]]:
    """The model (ModelT) with integers throughout, its inputs and outputs included, and notes for the report.

    Ranges come from the calibration samples of `job.samples` by `options["observer"]` ("minmax").
    Raises UsageError without samples, and Unsupported naming what would have to stay in float.
    """
    if job.quant not in ACTIVATION_BITS:
        raise Unsupported(
            f"there is no scheme {job.quant!r} for microcontrollers",
            where="--quant",
            mend=f"Known are {', '.join(ACTIVATION_BITS)}",
        )
    if job.samples is None:
        raise UsageError(
            "integers need ranges, and ranges need data",
            where="--calibration",
            mend="Give --calibration DATA",
        )
    data = flatbuffer.write(source.model)
    graph = Graph(flatbuffer.read(data))
    recipe = recipes.integer_recipe(graph, ACTIVATION_BITS[job.quant])
    wanted = {t for op in graph.ops for t in graph.activations((*op.inputs, *op.outputs))}
    seen, note = ranges.observe(job, data, graph, wanted, source.inputs, progress)
    _refuse_dead(graph, seen)
    progress("quantize", 0, 1)
    model = flatbuffer.read(apply.apply(data, recipe, ranges.statistics_by_name(graph, seen)))
    progress("quantize", 1, 1)
    _refuse_float(Graph(model), job.quant)
    return model, (note, *_coarse(graph, seen, job.quant))


def _refuse_dead(graph: Graph, seen: dict[int, Range]) -> None:
    """Raise ConversionFailed where a layer's outputs are so small that kernels cannot express 6.0 in their scale.

    Kernels clamp to what ReLU6 ends at, as an int32 in the output's scale (CalculateActivationRangeQuantized).
    """
    for tensor, found in seen.items():
        span = max(found.high, 0.0) - min(found.low, 0.0)
        if 0 < span < SMALLEST_SPAN:
            raise ConversionFailed(
                f"values of {graph.name(tensor)} lie within {span:.2g} on every sample: too small for integers",
                mend="Look at the layers before it: weights that were never trained, or data of another scale",
            )


def _refuse_float(graph: Graph, scheme: str) -> None:
    """Raise Unsupported where any operator still reads or writes floating-point numbers."""
    left = [op for op in graph.ops if any(t >= 0 and graph.is_float(t) for t in (*op.inputs, *op.outputs))]
    if left:
        raise Unsupported(
            f"no integer form of {counted(left)}: microcontrollers get integers throughout here",
            where=f"--quant {scheme}",
            mend="Rewrite that part of the model (ReLU instead of GELU, batch norm instead of layer norm)",
        )


def _coarse(graph: Graph, seen: dict[int, Range], scheme: str) -> list[str]:
    """A note on activations that 8 bits hold badly; 16 bits hold them all."""
    if scheme != "int8":
        return []
    coarse = [t for t, found in seen.items() if found.sqnr_db < recipes.MIN_SQNR_DB]
    if not coarse:
        return []
    names = ", ".join(graph.name(t) for t in coarse[:3])
    return [
        f"A few huge values swallow the range of {len(coarse)} activations ({names}): int16x8 holds them, "
        "at twice the arena"
    ]
