"""Runs a language model over windows of held-out text, to be recorded or held against what was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..exporters.job import Job, Progress
from ..targets import host
from ..targets.errors import SourceUnreadable
from .language_figures import (
    Comparison,
    Recorded,
    Recorder,
    first_position,
    log_probabilities,
    targets,
    windows_to_run,
)
from .runners import LanguageRunner, of_format

Array = np.ndarray[Any, Any]

FILE_TYPES: Mapping[int | None, str] = {0: "float32", 1: "float16", 7: "q8_0", 32: "bfloat16"}
"""`general.file_type` of a file that a quantized one is compared with."""


@dataclass(frozen=True)
class Run:
    """What one file gave."""

    windows: int
    targets: Array
    """Log-probabilities of the tokens that came: float32 (positions,)."""
    compared: tuple[Comparison, ...]
    """One for each record that it was held against."""


def threads_of(job: Job) -> int:
    """Threads to run on: those asked for, or every CPU of this process."""
    return int(job.options.get("threads") or host.cpu_count())


def format_of(job: Job) -> str:
    """The artifact's format."""
    return str(job.options.get("format", "gguf"))


def kv_of(job: Job) -> str:
    """What the artifact keeps keys and values in."""
    return str(job.options.get("kv_type") or "f16")


def record(job: Job, path: Path, windows: Array, out: Path, progress: Progress) -> None:
    """Write the log-probabilities of the GGUF file in `path`, of the first windows, to `out`."""
    from .runners.gguf import LlamaRunner

    runner = LlamaRunner(path, threads_of(job))
    try:
        count = _count(runner, windows)
        named = FILE_TYPES.get(runner.model.number("general.file_type"), "its source")
        with Recorder(out, f"{named} in llama.cpp") as recorder:
            for index in range(count):
                progress("run the 16-bit model", index, count)
                recorder.add(_rows(runner, windows[index]), windows[index])
        progress("run the 16-bit model", count, count)
    finally:
        runner.close()


def run(
    job: Job, path: Path, windows: Array, records: Sequence[Recorded], progress: Progress, stage: str
) -> Run:
    """Run the artifact over the windows of the first record (without one: as many as are evaluated), once for all.

    Raises SourceUnreadable for a record of other windows.
    """
    module = of_format(format_of(job))
    runner: LanguageRunner = module.load_language(path, threads_of(job), kv_of(job))
    compared, found = [Comparison() for _ in records], []
    try:
        count = min(records[0].count, len(windows)) if records else _count(runner, windows)
        for index in range(count):
            progress(stage, index, count)
            rows = _rows(runner, windows[index])
            for recorded, comparison in zip(records, compared, strict=True):
                if index < recorded.count:
                    _hold(comparison, recorded, index, rows)
            found.append(targets(rows, windows[index]))
    finally:
        runner.close()
    progress(stage, count, count)
    return Run(count, np.concatenate(found), tuple(compared))


def _hold(comparison: Comparison, recorded: Recorded, index: int, rows: Array) -> None:
    expected = recorded.rows(index)
    if len(expected) != len(rows):
        raise SourceUnreadable(
            f"window {index} has {len(expected)} positions, not {len(rows)}", where=recorded.path.name
        )
    comparison.add(expected, rows)


def _count(runner: LanguageRunner, windows: Array) -> int:
    return windows_to_run(len(windows), windows.shape[1], runner.vocabulary, runner.parameters)


def _rows(runner: LanguageRunner, window: Array) -> Array:
    """Log-probabilities of one window at the evaluated positions: float32."""
    return log_probabilities(runner.logits(window, first=first_position(len(window)), last=len(window) - 1))
