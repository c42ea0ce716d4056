"""What a person sees while it runs and at the end: progress bars, tables, and errors in three lines."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from . import arena, figures, language, placement

HIDDEN = ("Cc", "Cs")
"""Unicode categories that command a terminal, or cannot be written at all."""
BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that let a terminal show others in another order."""


class SafeConsole(Console):
    """A console on which names and texts out of a model cannot give the terminal commands.

    rich writes escape sequences that stand in a text as they are; here they are shown instead.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, every control character in their texts escaped but the line's end."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment(visible(segment.text, keep="\n"), segment.style)


def visible(text: str, keep: str = "") -> str:
    """`text` with every control character, but those in `keep`, as Python would write it: `\\x1b`."""

    def hidden(char: str) -> bool:
        return char not in keep and (unicodedata.category(char) in HIDDEN or char in BIDIRECTIONAL)

    return "".join(repr(char)[1:-1] if hidden(char) else char for char in text)


def output() -> Console:
    """The console for results: standard output."""
    return SafeConsole(highlight=False, markup=False)


def errors() -> Console:
    """The console for progress: standard error, so that results can be piped."""
    return SafeConsole(stderr=True, highlight=False, markup=False)


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
    columns = [predicted, here, measured]
    headings = ["source", f"predicted\n{manifest['device']}", "predicted\nthis host", "measured\nthis host"]
    if manifest["device"] == figures.THIS_HOST:  # the same figures twice
        del columns[0], headings[1]
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    sizes = [manifest["source"]["bytes"], *(each["file_bytes"] for each in columns)]
    table.add_row("size", *map(figures.size, sizes))
    if manifest.get("verify") == "language":
        times = [*(each["decode_ms"] for each in columns[:-1]), _p50(measured["latency_ms"])]
        table.add_row("generation", "", *map(language.tokens_per_second, times))
    else:
        latencies = [each["latency_ms"] for each in columns[:-1]]
        table.add_row(
            "latency p50",
            *map(
                figures.milliseconds,
                [_p50(measured["source_latency_ms"]), *latencies, _p50(measured["latency_ms"])],
            ),
        )
    table.add_row("peak memory", "", *(figures.size(each["peak_memory_bytes"]) for each in columns))
    console.print(table)
    fidelity(console, manifest)
    for what, sentence in language.speed_lines(manifest):
        console.print(Text(f"{what}: {sentence}"))
    if language.sample(manifest):
        console.print(Text.assemble("sample: ", (language.sample(manifest), "italic")))
    for what, line in manifest.get("run") or ():
        console.print(Text(f"{what}: {line}"))
    for sentence in arena.lines(manifest):
        console.print(Text(f"· {sentence}"))
    for sentence, _ in placement.lines(manifest):
        console.print(Text(f"· {sentence}"))
    for sentence in manifest["notes"]:
        console.print(Text(f"· {sentence}"))
    for sentence in manifest["warnings"]:
        console.print(Text(f"! {sentence}", style="yellow"))
    published = (out, "bold"), f": {manifest['artifact']}, manifest.json, report.html"
    console.print(Text.assemble("published ", *published))
    if manifest["state"] != "done":
        console.print(f"It is {manifest['state']}: `modelport finish` completes it on that machine.")


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
    if manifest["state"] != "done":
        console.print(f"The folder is {manifest['state']}: verified as far as it can be here.")
    fidelity(console, manifest)


def _p50(latency: Mapping[str, float] | None) -> float | None:
    return latency["p50"] if latency else None
