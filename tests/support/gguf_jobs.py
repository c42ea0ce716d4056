"""Jobs of the GGUF exporter: made, and run in this process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from modelport.exporters.job import Job, Outcome
from modelport.exporters.runtimes import gguf


def make_job(folder: Path, source: Path, scheme: str, **options: Any) -> Job:
    """A job for local-llm under `folder`: a Hugging Face directory, or a GGUF file, to one scheme."""
    for name in ("staging", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    kind = "gguf" if source.is_file() else "causal-lm"
    staging, work = str(folder / "staging"), str(folder / "work")
    return Job(
        (), kind, str(source), "local-llm", "gguf", scheme, staging, work, None, {"threads": 2, **options}
    )


def export(job: Job) -> tuple[Path, Outcome]:
    """Header and file, as the two workers of a conversion write them; the file and what the exporter reports."""
    gguf.header(job, _quiet)
    outcome = gguf.export(job, _quiet)
    return Path(job.staging) / outcome.files[0], outcome


def sizes(source: Path, schemes: list[str], **options: Any) -> dict[str, int]:
    """The foretold size of the file in every scheme."""
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(Path(folder), source, schemes[0], schemes=schemes, **options)
        found: dict[str, int] = gguf.sizes(job, _quiet).data["file_bytes"]
        return found


def _quiet(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
