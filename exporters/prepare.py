"""The worker step that turns the user's data into samples on disk, before anything else is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..calibration import dataset
from ..targets.facts import IoFact
from .job import Job, Outcome, Progress


def run(job: Job, progress: Progress) -> Outcome:
    """Write `job.samples` from options["calibration"]; the outcome's data is the manifest's `calibration`."""
    progress("read the calibration data", 0, 1)
    options = job.options
    inputs = tuple(IoFact(**{**raw, "shape": _shape(raw["shape"])}) for raw in options["inputs"])
    path = Path(job.source_path)
    assert job.samples is not None, "a job with this step names the samples folder"
    prepared = dataset.prepare(
        options["calibration"],
        inputs,
        Path(job.samples),
        model_dir=path if path.is_dir() else path.parent,
        root=Path(options["folder"]),
        seed=options["seed"],
        held_out=options["held_out"],
        limit=options["samples"],
        sequence=options["sequence"] if options["sequence_asked"] else None,
        assumed_sequence=options["sequence"],
    )
    progress("read the calibration data", 1, 1)
    return Outcome(data=dataclasses.asdict(prepared), notes=tuple(prepared.warnings))


def _shape(raw: list[int | str | None] | None) -> tuple[int | str | None, ...] | None:
    return None if raw is None else tuple(raw)
