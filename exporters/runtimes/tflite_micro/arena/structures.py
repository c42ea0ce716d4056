"""Sizes of TensorFlow Lite Micro's own structures, by size of a pointer, from a table with its version."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .....targets.errors import Unsupported

TABLE = Path(__file__).with_name("structures.toml")
POINTERS = (4, 8)


@dataclass(frozen=True)
class Structures:
    """Sizes and alignments for one size of a pointer."""

    version: str
    """The public source that they were taken from."""
    pointer: int
    """Bytes: 4 or 8."""
    layouts: Mapping[str, tuple[int, int]]
    """(size, alignment) in bytes, by C++ name."""
    operators: Mapping[str, Mapping[str, str]]
    """By kind: the structure of its options, parsed from the file, and that of its kernel's data."""

    def size(self, name: str) -> int:
        """sizeof."""
        return self.layouts[name][0]

    def options(self, kind: str) -> tuple[int, int] | None:
        """(size, alignment) of an operator's parsed options, None for one without any."""
        name = self._operator(kind).get("options")
        return self.layouts[name] if name else None

    def data(self, kind: str) -> int:
        """Bytes that an operator's kernel keeps for each use, 0 for none."""
        name = self._operator(kind).get("data")
        return self.size(name) if name else 0

    def _operator(self, kind: str) -> Mapping[str, str]:
        if kind not in self.operators:
            raise Unsupported(
                f"the arena of {kind} is not known ({self.version})",
                where="model.tflite",
                mend="TensorFlow Lite Micro registers no such operator, or it needs what a plain interpreter lacks",
            )
        return self.operators[kind]


@cache
def structures(pointer: int) -> Structures:
    """The table for pointers of 4 bytes (Arm Cortex-M, Xtensa, RISC-V 32) or 8; raises ValueError for others."""
    if pointer not in POINTERS:
        raise ValueError(f"pointers have 4 or 8 bytes, not {pointer}")
    raw = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    column = 0 if pointer == POINTERS[0] else 2
    return Structures(
        version=raw["version"],
        pointer=pointer,
        layouts={name: (row[column], row[column + 1]) for name, row in raw["layouts"].items()},
        operators=raw["operators"],
    )
