"""Microcontrollers: a full-integer .tflite for TensorFlow Lite Micro, and the C++ around it."""

from __future__ import annotations

from pathlib import Path

from ...job import Job, Outcome, Progress

REQUIRES = ("ai_edge_litert", "ai_edge_quantizer", "flatbuffers", "litert_torch", "tensorflow", "torch")
"""Modules that must be installed; the extra `android` brings them."""

ARTIFACT = "model.tflite"


def export(job: Job, progress: Progress) -> Outcome:
    """Write `model.tflite`, and beside it the C++ that runs it, into the job's staging folder.

    - `convert.convert(job) -> FloatModel`: the float model, images in NHWC where nothing else is asked
    - `operators.require(graph)`: only what TensorFlow Lite Micro registers
    - `quantize.quantize(source, job, progress) -> (model, notes)`: integers throughout
    - `lean.strip(model)`: what the board would carry for nothing goes
    - `ladder.climb(model, options) -> Climb`: the order of operators, the arena, and what else would help
    - `fit.pruned(source, job, progress, climb) -> Climb`: with `--fit`, where the arena is still too large
    - `sources.write(folder, ...)`: model_data, op_resolver, arena, main and README

    Data: `arena` (bytes by pointer size, peak, headroom and rungs), and `beside`: the files that are not the model.
    Raises Unsupported naming operators without an integer form or without a kernel, before the long work where
    the float graph tells.
    """
    from ...litert import flatbuffer
    from . import convert, fit, ladder, lean, operators, quantize, reference, sources

    progress("convert to LiteRT", 0, 1)
    source = convert.convert(job)
    operators.require(flatbuffer.Graph(source.model), job.quant)
    progress("convert to LiteRT", 1, 1)
    model, notes = quantize.quantize(source, job, progress)
    operators.require(flatbuffer.Graph(model), job.quant)
    progress("plan the arena", 0, 1)
    lean.strip(model)
    climbed = ladder.climb(model, job.options)
    limit = job.options.get("ram_bytes")
    if job.options.get("fit") and limit is not None and climbed.plan.needed > int(limit):
        climbed = fit.pruned(source, job, progress, climbed)
    lean.drop_names(climbed.model)
    data = flatbuffer.write(climbed.model)
    progress("plan the arena", 1, 1)
    folder = Path(job.staging)
    (folder / ARTIFACT).write_bytes(data)
    sample = reference.run_sample(data, job, source.inputs)
    beside = sources.write(folder, data, climbed, sample, job)
    return Outcome(
        files=(ARTIFACT, *beside),
        inputs=source.inputs,
        outputs=source.outputs,
        notes=(*source.notes, *notes, *climbed.notes),
        data={"arena": climbed.entry(), "beside": list(beside)},
    )
