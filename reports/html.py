"""report.html: one self-contained page from the manifest alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..verification.audit.rule import left_in_float
from . import arena, figures, language, placement

NAME = "report.html"


def render(manifest: Mapping[str, Any]) -> str:
    """The page as text; every value is escaped, nothing is loaded from elsewhere."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        size=figures.size,
        ms=figures.milliseconds,
        percent=figures.percent,
        count=figures.count,
        term=figures.term,
        left_in_float=left_in_float,
        tokens=language.tokens_per_second,
        threads=language.threads,
        shell=shlex.join,
    )
    page: str = environment.get_template("report.html.j2").render(
        m=manifest,
        other=manifest["device"] != figures.THIS_HOST,
        fidelity=figures.fidelity_lines(manifest["fidelity"]),
        held_out=figures.held_out(manifest) if manifest["fidelity"] else "",
        language_fidelity=language.fidelity_lines(manifest),
        run=manifest.get("run") or [],
        sample=language.sample(manifest),
        placed=placement.lines(manifest),
        arena=arena.lines(manifest),
        speed=language.speed_lines(manifest),
    )
    return page


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write report.html into `folder`."""
    (folder / NAME).write_text(render(manifest), encoding="utf-8")
