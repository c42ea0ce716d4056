"""The schemes by name: what each makes of the float graph."""

from __future__ import annotations

from pathlib import Path

import onnx

from ....targets.errors import Unsupported
from ...job import Job, Progress
from ...onnx import files, settle
from . import narrow, rewrite, static

SCHEMES = ("fp32", "fp16", "int8", "int8-dynamic", "int4-weight")


def apply(job: Job, model: onnx.ModelProto, progress: Progress) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model in scheme `job.quant`, and sentences for the report."""
    if job.quant not in SCHEMES:
        raise Unsupported(
            f"there is no scheme {job.quant!r}", where="--quant", mend=f"Known are {', '.join(SCHEMES)}"
        )
    if job.quant == "fp32":
        return model, ()
    model = settle.settled(model)
    settle.refuse_narrow(model, job)
    progress(f"quantize to {job.quant}", 0, 1)
    if job.quant == "fp16":
        model, notes = model, _half(model)
    elif job.quant == "int8":
        model, notes = static.quantize(job, model, progress)
    elif job.quant == "int8-dynamic":
        model, notes = narrow.dynamic(model, Path(job.work), job.source_path)
    else:
        model, notes = narrow.int4(model, Path(job.work), job.source_path)
    progress(f"quantize to {job.quant}", 1, 1)
    return files.tidy(model), notes


def _half(model: onnx.ModelProto) -> tuple[str, ...]:
    beyond = rewrite.half_weights(model)
    notes = [
        "Weights are stored in float16 and cast to float32 when the file is loaded; all is computed in float32."
    ]
    if beyond:
        notes.append(f"Values beyond float16's 65504 stay in float32: {', '.join(beyond[:6])}.")
    return tuple(notes)
