"""Jobs of the exporter for microcontrollers: made and run in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelport.calibration.samples import write_set
from modelport.exporters.job import Job, Outcome
from modelport.exporters.runtimes import tflite_micro

Arrays = Mapping[str, np.ndarray[Any, Any]]


def make_job(folder: Path, kind: str, path: Path, quant: str, data: Arrays, **options: Any) -> Job:
    """A job for edge under `folder`; `data` becomes its calibration samples, its first two the held-out ones."""
    (folder / "staging").mkdir(parents=True)
    write_set(folder / "samples" / "calibration", data)
    write_set(folder / "samples" / "held_out", {name: values[:2] for name, values in data.items()})
    return Job(
        (), kind, str(path), "edge", "tflite_micro", quant, str(folder / "staging"), str(folder),
        str(folder / "samples"), options,
    )  # fmt: skip


def export(job: Job) -> tuple[Outcome, Path]:
    """What the exporter reports, and the folder that it wrote into."""
    return tflite_micro.export(job, lambda stage, done, total: None), Path(job.staging)


def program(module: Any, example: Any, path: Path) -> Path:
    """The module as a .pt2 file."""
    import torch

    torch.export.save(torch.export.export(module.eval(), (example,)), path)
    return path
