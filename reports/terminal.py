"""What a person sees while it runs and at the end: progress bars, tables, and errors in three lines."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from . import figures, language


def output() -> Console:
    """The console for results: standard output."""
    return Console(highlight=False, markup=False)


def errors() -> Console:
    """The console for progress: standard error, so that results can be piped."""
    return Console(stderr=True, highlight=False, markup=False)


class Bars:
    """Progress bars on stderr, one a stage; a stage that names no total spins."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        """Nothing is drawn yet: an error before the first stage leaves no empty line."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Draw one progress event; a new stage closes the ones before it."""
        self._progress.start()
        if stage not in self._tasks:
            for task in self._tasks.values():
                self._finish(task)
            self._tasks[stage] = self._progress.add_task(stage, total=total or None)
        self._progress.update(self._tasks[stage], completed=done, total=total or None)

    def _finish(self, task: Any) -> None:
        shown = self._progress.tasks[task]
        self._progress.update(task, completed=shown.total or 1, total=shown.total or 1)


def summary(console: Console, manifest: Mapping[str, Any], out: str) -> None:
    """The table at the end of a conversion: size, latency and memory, fidelity, and what to look at."""
    measured, predicted, here = manifest["measured"], manifest["predicted"], manifest["predicted_this_host"]
    title = f"{manifest['source']['name']} → {manifest['target']} {manifest['quant']}"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    table.add_column("")
    for heading in (
        "source",
        f"predicted\n{manifest['device']}",
        "predicted\nthis host",
        "measured\nthis host",
    ):
        table.add_column(heading, justify="right")
    table.add_row(
        "size",
        figures.size(manifest["source"]["bytes"]),
        figures.size(predicted["file_bytes"]),
        figures.size(here["file_bytes"]),
        figures.size(measured["file_bytes"]),
    )
    if manifest.get("verify") == "language":
        table.add_row("generation", "", *(language.tokens_per_second(ms) for ms in _decoding(manifest)))
    else:
        table.add_row(
            "latency p50",
            figures.milliseconds(_p50(measured["source_latency_ms"])),
            figures.milliseconds(predicted["latency_ms"]),
            figures.milliseconds(here["latency_ms"]),
            figures.milliseconds(_p50(measured["latency_ms"])),
        )
    table.add_row(
        "peak memory",
        "",
        figures.size(predicted["peak_memory_bytes"]),
        figures.size(here["peak_memory_bytes"]),
        figures.size(measured["peak_memory_bytes"]),
    )
    console.print(table)
    fidelity(console, manifest)
    for what, sentence in language.speed_lines(manifest):
        console.print(Text(f"{what}: {sentence}"))
    if language.sample(manifest):
        console.print(Text.assemble("sample: ", (language.sample(manifest), "italic")))
    for what, line in manifest.get("run") or ():
        console.print(Text(f"{what}: {line}"))
    for sentence in manifest["notes"]:
        console.print(Text(f"· {sentence}"))
    for sentence in manifest["warnings"]:
        console.print(Text(f"! {sentence}", style="yellow"))
    published = (out, "bold"), f": {manifest['artifact']}, manifest.json, report.html"
    console.print(Text.assemble("published ", *published))


def fidelity(console: Console, manifest: Mapping[str, Any]) -> None:
    """One line per output, and one for the audit."""
    fidelity_figures = manifest["fidelity"]
    if fidelity_figures is None:
        why = manifest.get("not_checked") or "no runner here opens this format"
        console.print(Text(f"fidelity: not checked: {why}", style="yellow"))
        return
    console.print(f"fidelity on {figures.held_out(manifest)}:")
    for name, sentence in figures.fidelity_lines(fidelity_figures):
        console.print(Text(f"  {name}: {sentence}"))
    for name, sentence in language.fidelity_lines(manifest):
        console.print(Text(f"  {name}: {sentence}"))
    if manifest.get("proof"):
        console.print(Text(f"  {manifest['proof']}"))
    if manifest["audit"]:
        asked = manifest["audit"]["asked"]
        line = f"audit: {figures.percent(asked['weight_share'])} of the weight bytes are {asked['weights']}"
        if "int" in asked["compute"]:
            line += (
                f", {figures.percent(asked['mac_share'])} of the multiply-accumulates are {asked['compute']}"
            )
        console.print(Text(line))


def verified(console: Console, manifest: Mapping[str, Any]) -> None:
    """What `modelport verify` found."""
    console.print(f"{len(manifest['files'])} files have their hashes")
    fidelity(console, manifest)


def _decoding(manifest: Mapping[str, Any]) -> tuple[float | None, ...]:
    """Milliseconds of one generated token: predicted on the device and here, and measured here."""
    predicted, here = manifest["predicted"], manifest["predicted_this_host"]
    return predicted["decode_ms"], here["decode_ms"], _p50(manifest["measured"]["latency_ms"])


def _p50(latency: Mapping[str, float] | None) -> float | None:
    return latency["p50"] if latency else None
