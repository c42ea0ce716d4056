"""Flash that the runtime's code takes beside the model: a table of sizes, built once for a Cortex-M4."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("flash.toml")


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def code_bytes(kinds: Iterable[str]) -> int:
    """Bytes of the interpreter and of the kernels of these operators; an estimate (see `basis`).

    Kernels that share a file are counted once; an operator that the table lacks counts as the median of it.
    """
    table = _table()
    files = {table["operators"].get(kind, "") for kind in kinds}
    sizes: dict[str, int] = table["kernels"]
    middle = sorted(sizes.values())[len(sizes) // 2]
    interpreter = int(table["interpreter"])
    return interpreter + sum(sizes.get(file, middle) for file in files)


def basis() -> str:
    """What was built, and how."""
    return str(_table()["basis"])
