"""Core ML packages for iPhone and iPad: float, half, int8 with activations, int8, int4 and palette weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...job import Job, Outcome, Progress

if TYPE_CHECKING:
    from .convertible import Convertible

REQUIRES = ("coremltools", "torch")
"""What every conversion of this runtime imports."""

ARTIFACT = "model.mlpackage"


def export(job: Job, progress: Progress) -> Outcome:
    """Write the folder model.mlpackage into the staging folder, by the scheme `job.quant`.

    Options read are those of `options.read`, and "sequence" (tokens of a fixed shape, 128). The steps of a
    scheme, in order; each gives sentences for the report:

    - `convert.source(job, wanted) -> Convertible`: the float graph, and how it becomes a package
    - `overflow.guard(source, job) -> (op_selector | None, notes)`: what must not be computed in float16
    - `Convertible.build(precision) -> (MLModel, notes)`
    - `activations.quantize(model, source, job, progress) -> (MLModel, notes)`: scheme int8
    - `weights.compress(model, job.quant, job) -> (MLModel, notes)`: every scheme but fp32 and fp16
    - `package.write(model, path, wanted, source)`: the same bytes for the same input

    Raises Unsupported naming the operator and its source line where Core ML has no form of it.
    """
    from . import convert, options, package, quiet

    wanted = options.read(job.options, job.quant)
    progress("make the graph", 0, 1)
    source = convert.source(job, wanted)
    progress("make the graph", 1, 1)
    precision, guarded = _precision(job, source)
    progress("convert to Core ML", 0, 1)
    model, road = source.build(precision)
    progress("convert to Core ML", 1, 1)
    notes = [*road, *source.notes, *guarded]
    with quiet.quietly():
        if job.quant == "int8":
            from . import activations

            model, said = activations.quantize(model, source, job, progress)
            notes += said
        if job.quant not in ("fp32", "fp16"):
            from . import weights

            progress("compress the weights", 0, 1)
            model, said = weights.compress(model, job.quant, job)
            notes += said
            progress("compress the weights", 1, 1)
    progress("write the package", 0, 1)
    package.write(model, Path(job.staging) / ARTIFACT, wanted, source)
    progress("write the package", 1, 1)
    return Outcome(
        files=(ARTIFACT,),
        inputs=source.inputs,
        outputs=source.outputs,
        notes=tuple(notes),
        data=dict(source.data),
    )


def _precision(job: Job, source: Convertible) -> tuple[object, tuple[str, ...]]:
    """What coremltools shall compute in: float32, float16, or float16 but for operators that overflow."""
    import coremltools as ct

    if job.quant == "fp32":
        return ct.precision.FLOAT32, ()
    from . import overflow

    selector, notes = overflow.guard(source, job)
    if selector is None:
        return ct.precision.FLOAT16, notes
    return ct.transform.FP16ComputePrecision(op_selector=selector), notes
