"""Sizes and counts as people read them, for the formulas that a verdict shows."""

from __future__ import annotations

SIZES = ("B", "kB", "MB", "GB", "TB", "PB")
COUNTS = ("", "k", "M", "G", "T", "P")


def size(nbytes: float) -> str:
    """Bytes in decimal units with three digits, as in "13.5 GB"."""
    return _scaled(nbytes, SIZES, " ")


def count(number: float) -> str:
    """A count in decimal units with three digits, as in "7.24 G"."""
    return _scaled(number, COUNTS, " ").strip()


def _scaled(value: float, units: tuple[str, ...], gap: str) -> str:
    index = 0
    # 999.5 would be printed as 1000 of the smaller unit.
    while value >= 999.5 and index < len(units) - 1:
        value, index = value / 1000, index + 1
    digits = 0 if index == 0 and value == int(value) else max(0, 2 - len(str(int(value))) + 1)
    return f"{value:.{digits}f}{gap}{units[index]}"
