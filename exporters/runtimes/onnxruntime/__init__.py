"""ONNX for ONNX Runtime: float, half, static and dynamic int8, and int4 weights."""

from __future__ import annotations

from ....sources.loading import tensorflow_onnx
from ...job import Job, Outcome, Port, Progress

REQUIRES = ("onnx", "onnxruntime")
"""What every conversion of this runtime imports; torch sources need torch and onnxscript as well."""

REQUIRES_FOR = tensorflow_onnx.REQUIRES_FOR

ARTIFACT = "model.onnx"


def export(job: Job, progress: Progress) -> Outcome:
    """Write model.onnx into the staging folder, by the scheme `job.quant`.

    Options read: "opset" (21; torch sources), "sequence" (tokens of the example, 128), "observer" ("minmax",
    static int8 only). Files above 2 GB keep their weights in model.onnx.data. Raises Unsupported where a
    scheme would leave most weights in float or an operator has no ONNX form, and UsageError where static
    int8 has no samples.
    """
    from ...onnx import files, source
    from . import schemes

    progress("make the float graph", 0, 1)
    model, route = source.float_model(job)
    inputs, outputs = files.io_names(model)
    progress("make the float graph", 1, 1)
    model, notes = schemes.apply(job, model, progress)
    progress("write the file", 0, 1)
    written = files.save(model, job.staging, ARTIFACT)
    progress("write the file", 1, 1)
    return Outcome(
        files=written,
        inputs=tuple(Port(name, name) for name in inputs),
        outputs=tuple(Port(name, name) for name in outputs),
        notes=(route, *notes),
    )
