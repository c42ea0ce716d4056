"""Exporter of LiteRT (.tflite) files: convert once to float32, quantize, write one self-contained file."""

from __future__ import annotations

from pathlib import Path

from ...job import Job, Outcome, Progress

REQUIRES = ("ai_edge_litert", "ai_edge_quantizer", "flatbuffers", "litert_torch", "tensorflow", "torch")
"""Modules that must be installed; the extra `android` brings them."""

ARTIFACT = "model.tflite"


def export(job: Job, progress: Progress) -> Outcome:
    """Write `model.tflite` into the job's staging folder.

    The ports give the source's names, which are the artifact's too, and the axis order where
    `options["layout"]` moved channels. Reads `options`: layout, sequence, signature, observer.
    Raises what the loaders raise; Unsupported for schemes and operators that LiteRT lacks.
    """
    from ...litert import convert, flatbuffer
    from . import quantize

    progress("convert to LiteRT", 0, 1)
    source = convert.convert(job)
    progress("convert to LiteRT", 1, 1)
    model, notes = quantize.quantize(source, job, progress)
    progress(f"write {ARTIFACT}", 0, 1)
    (Path(job.staging) / ARTIFACT).write_bytes(flatbuffer.write(model))
    progress(f"write {ARTIFACT}", 1, 1)
    return Outcome(
        files=(ARTIFACT,), inputs=source.inputs, outputs=source.outputs, notes=source.notes + notes
    )
