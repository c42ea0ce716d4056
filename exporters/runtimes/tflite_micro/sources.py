"""Writes what stands beside the model: C++ sources and build notes."""

from __future__ import annotations

from pathlib import Path

from ...job import Job
from . import cpp, readme
from .ladder import Climb
from .reference import Sample


def write(folder: Path, data: bytes, climbed: Climb, sample: Sample, job: Job) -> tuple[str, ...]:
    """Write every file into `folder`; their names, in the alphabet's order."""
    texts = cpp.files(data, climbed.kinds, climbed.size, sample)
    texts["README.md"] = readme.text(climbed, sample, str(job.options.get("device_title") or "the device"))
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return tuple(sorted(texts))
