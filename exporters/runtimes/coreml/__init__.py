"""Core ML packages for iPhone and iPad: float, half, int8 with activations, int8, int4 and palette weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...job import Job, Outcome, Progress

if TYPE_CHECKING:
    from .convertible import Convertible

REQUIRES = ("coremltools", "torch")
"""What every conversion of this runtime imports."""

ARTIFACT = "model.mlpackage"


def export(job: Job, progress: Progress) -> Outcome:
    """Write the folder model.mlpackage into the staging folder, by the scheme `job.quant`.

    Options read are those of `options.read`, "sequence" (tokens of a fixed shape, 128) and "observer". A float32
    program is converted first, whatever the scheme; it is run on the calibration samples, and then rewritten:

    - `convert.source(job, wanted) -> Convertible`: the float graph, and how it becomes a package
    - `Convertible.build(precision) -> (MLModel, notes)`
    - `ranges.observe(model, source, job, progress) -> Seen`: peaks, and ranges for int8
    - `activations.quantize(model, ranges, powers) -> (MLModel, notes)`: scheme int8
    - `overflow.half(model, peaks) -> (MLModel, notes)`: float16, but for what overflows
    - `weights.compress(model, job.quant) -> (MLModel, notes)`: every scheme but fp32 and fp16
    - `package.write(model, path, wanted, source)`: the same bytes for the same input

    Raises Unsupported naming the operator and its source line where Core ML has no form of it.
    """
    from . import convert, options, package, quiet, readme

    wanted = options.read(job.options, job.quant)
    progress("make the graph", 0, 1)
    source = convert.source(job, wanted)
    progress("make the graph", 1, 1)
    progress("convert to Core ML", 0, 1)
    model, notes = source.build(_float32())
    progress("convert to Core ML", 1, 1)
    with quiet.quietly():
        model, said = _in_scheme(model, source, job, progress)
    progress("write the package", 0, 1)
    package.write(model, Path(job.staging) / ARTIFACT, wanted, source)
    readme.write(Path(job.staging), ARTIFACT, source.inputs, source.outputs, source.data)
    progress("write the package", 1, 1)
    return Outcome(
        files=(ARTIFACT,),
        inputs=source.inputs,
        outputs=source.outputs,
        notes=(*notes, *source.notes, *said),
        data=dict(source.data),
    )


def _float32() -> object:
    import coremltools as ct

    return ct.precision.FLOAT32


def _in_scheme(model: Any, source: Convertible, job: Job, progress: Progress) -> tuple[Any, tuple[str, ...]]:
    """The float32 model (MLModel) in the job's scheme, and what the user should know about it."""
    if job.quant == "fp32":
        return model, ()
    from . import activations, overflow, ranges, weights

    seen = ranges.observe(model, source, job, progress)
    notes = list(seen.notes)
    if job.quant == "int8":
        model, said = activations.quantize(model, seen.ranges, seen.powers)
        notes += said
    progress(f"write as {job.quant}", 0, 1)
    model, said = overflow.half(model, seen.peaks)
    notes += said
    if job.quant != "fp16":
        model, said = weights.compress(model, job.quant)
        notes += said
    progress(f"write as {job.quant}", 1, 1)
    return model, tuple(notes)
