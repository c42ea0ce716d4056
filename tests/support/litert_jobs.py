"""Jobs of the LiteRT exporter: made, run in this process, and compared with their source output by output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelport.calibration.samples import write_set
from modelport.exporters.job import Job, Outcome
from modelport.exporters.ports import to_artifact, to_source
from modelport.exporters.runtimes import litert
from modelport.sources.loading.reference import load_reference
from modelport.verification import runners
from modelport.verification.fidelity import compare_output

Arrays = Mapping[str, np.ndarray[Any, Any]]


def make_job(
    folder: Path, kind: str, path: Path, quant: str, data: Arrays | None = None, **options: Any
) -> Job:
    """A job for android under `folder`; `data` becomes its calibration samples."""
    (folder / "staging").mkdir(parents=True)
    if data is not None:
        write_set(folder / "samples" / "calibration", data)
    samples = str(folder / "samples") if data is not None else None
    return Job(
        (),
        kind,
        str(path),
        "android",
        "litert",
        quant,
        str(folder / "staging"),
        str(folder),
        samples,
        options,
    )


def export(job: Job) -> tuple[Outcome, Path]:
    """What the exporter reports, and the file that it wrote."""
    outcome = litert.export(job, lambda stage, done, total: None)
    return outcome, Path(job.staging) / outcome.files[0]


def compare(job: Job, outcome: Outcome, held_out: Arrays) -> dict[str, dict[str, Any]]:
    """Figures per output of the artifact against the source."""
    reference = load_reference(job.source_kind, Path(job.source_path), job.options)
    runner = runners.load(Path(job.staging) / outcome.files[0], "tflite", threads=2)
    assert runner is not None
    wanted: dict[str, list[Any]] = {}
    given: dict[str, list[Any]] = {}
    for index in range(len(next(iter(held_out.values())))):
        feed = {name: values[index : index + 1] for name, values in held_out.items()}
        found = to_source(runner.run(to_artifact(feed, outcome.inputs)), outcome.outputs)
        for name, value in reference(feed).items():
            wanted.setdefault(name, []).append(value)
            given.setdefault(name, []).append(found[name])
    return {name: compare_output(name, wanted[name], given[name]) for name in wanted}


SOURCES = {"torch-exported": "digits.pt2", "saved-model": "digits_saved_model", "keras": "digits.keras"}


def images(digits: Path, kind: str, name: str, count: int) -> Arrays:
    """The first `count` digits of a set, NCHW for torch and NHWC for the others."""
    array = np.load(digits / f"{name}.npz")["image"][:count]
    return {"image": array if kind == "torch-exported" else array.transpose(0, 2, 3, 1)}
