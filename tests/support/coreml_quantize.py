"""Jobs of the Core ML exporter: torch modules converted to a scheme, run in the reference evaluator, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelport.calibration.samples import write_set
from modelport.exporters.job import Job, Outcome
from modelport.exporters.runtimes import coreml
from modelport.mil.evaluate import Evaluator
from modelport.mil.package import open_package
from modelport.mil.program import Operation, Program
from modelport.sources.loading.reference import load_reference

Arrays = Mapping[str, np.ndarray[Any, Any]]


def save(module: torch.nn.Module, example: tuple[torch.Tensor, ...], path: Path) -> Path:
    """The module as a program file."""
    torch.export.save(torch.export.export(module.eval(), example), path)
    return path


def make_job(folder: Path, source: Path, quant: str, data: Arrays | None, **options: Any) -> Job:
    """A job for ios under `folder`; `data` becomes its calibration samples."""
    (folder / "staging").mkdir(parents=True)
    if data is not None:
        write_set(folder / "samples" / "calibration", data)
    samples = str(folder / "samples") if data is not None else None
    staging, work = str(folder / "staging"), str(folder)
    return Job((), "torch-exported", str(source), "ios", "coreml", quant, staging, work, samples, options)


class Converted:
    """A package that was written, ready to run."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.outcome: Outcome = coreml.export(job, lambda stage, done, total: None)
        self.path = Path(job.staging) / self.outcome.files[0]
        self.program: Program = open_package(self.path).program
        self.evaluator = Evaluator(self.program)

    @property
    def size(self) -> int:
        """Bytes of the whole package."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    @property
    def notes(self) -> str:
        """What the exporter told, in one text."""
        return "\n".join(self.outcome.notes)

    def operations(self, kind: str) -> list[Operation]:
        """The operations of one type."""
        return [op for op in self.program.main.block.operations if op.type == kind]

    def run(self, data: Arrays) -> np.ndarray[Any, Any]:
        """The first output for every sample, flattened: (samples, numbers)."""
        port = self.outcome.outputs[0].artifact
        feeds = (
            {given.artifact: data[given.source][index : index + 1] for given in self.outcome.inputs}
            for index in range(len(next(iter(data.values()))))
        )
        return np.stack([self.evaluator.run(feed)[port].reshape(-1) for feed in feeds])

    def reference(self, data: Arrays) -> np.ndarray[Any, Any]:
        """The same of the source."""
        model = load_reference(self.job.source_kind, Path(self.job.source_path), {})
        count = len(next(iter(data.values())))
        outputs = (model({name: rows[i : i + 1] for name, rows in data.items()}) for i in range(count))
        return np.stack([next(iter(found.values())).reshape(-1) for found in outputs])

    def sqnr_db(self, data: Arrays) -> float:
        """Signal to noise of the package against its source, in dB."""
        wanted = self.reference(data).astype(np.float64)
        noise = np.square(wanted - self.run(data)).sum()
        return float(10 * np.log10(np.square(wanted).sum() / max(noise, 1e-30)))
