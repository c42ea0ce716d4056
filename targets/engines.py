"""What an accelerator beside the CPU does not run, by public documentation: the tables in `engines/*.toml`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .facts import DTYPE_BITS
from .tables import Table, read_toml

HERE = Path(__file__).parent / "engines"

UNITS: Mapping[str, tuple[str, ...]] = {
    "all": ("neural-engine", "gpu", "cpu"),
    "cpuAndNeuralEngine": ("neural-engine", "cpu"),
    "cpuAndGPU": ("gpu", "cpu"),
    "cpuOnly": ("cpu",),
}
"""Core ML's compute units: the engines that a model may run on, the preferred first."""


@dataclass(frozen=True)
class Leave:
    """One operator that the engine does not run, by its name in ML programs, and who says so."""

    operator: str
    title: str
    """Who says so, in a few words."""
    source: str
    """The page that says so."""
    names: tuple[str, ...] = ()
    """What else sources call it, as `plain` gives it."""


@dataclass(frozen=True)
class Engine:
    """One accelerator: the dtypes it computes in, and the operators that it leaves to others."""

    name: str
    title: str
    dtypes: tuple[str, ...]
    dtypes_source: str
    leaves: Mapping[str, Leave]

    def leaving(self, kind: str) -> Leave | None:
        """The entry of an operator that the engine does not run, by any name it has; None where none is known."""
        return _by_name(self.name).get(plain(kind))

    def left_by(self, kinds: Iterable[str]) -> dict[str, Leave]:
        """Those of these kinds of operator that leave the engine, with their entries."""
        found = {kind: self.leaving(kind) for kind in kinds}
        return {kind: leave for kind, leave in found.items() if leave is not None}


def plain(kind: str) -> str:
    """An operator's name without case, underscores, "aten." and overload: aten.index_put_.default, indexput."""
    base = re.sub(r"^aten[.:]+", "", kind).partition(".")[0]
    return base.replace("_", "").lower()


@cache
def find_engine(name: str) -> Engine | None:
    """The engine of this name; None for one without a table, of which nothing is known."""
    path = HERE / f"{name}.toml"
    if not path.is_file():
        return None
    table = Table(read_toml(path), str(path))
    sources = table.table("sources")
    cited = {key: _source(sources.table(key)) for key in sources.keys()}  # noqa: SIM118
    entries = table.table("leaves")
    engine = Engine(
        name=name,
        title=table.text("title"),
        dtypes=tuple(table.texts("dtypes")),
        dtypes_source=table.text("dtypes_source"),
        leaves={key: _leave(key, entries.table(key), cited) for key in entries.keys()},  # noqa: SIM118
    )
    unknown = [dtype for dtype in engine.dtypes if dtype not in DTYPE_BITS]
    if unknown:
        raise table.fail("dtypes", f"{unknown[0]!r} is not a dtype", f"They are {', '.join(DTYPE_BITS)}")
    table.done()
    return engine


def _source(table: Table) -> tuple[str, str]:
    source = table.text("title"), table.text("url")
    table.done()
    return source


def _leave(operator: str, entry: Table, cited: Mapping[str, tuple[str, str]]) -> Leave:
    leave = Leave(operator, *cited[entry.text("source", choices=cited)], entry.texts("names", ()))
    entry.done()
    return leave


@cache
def _by_name(engine: str) -> dict[str, Leave]:
    found = find_engine(engine)
    leaves = found.leaves.values() if found else ()
    return {name: leave for leave in leaves for name in (plain(leave.operator), *leave.names)}
