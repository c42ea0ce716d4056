"""The last line of every benchmark: one figure beside its bar, and the exit code that says whether it holds."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


def close(name: str, checks: Sequence[tuple[str, float, str, float]]) -> NoReturn:
    """Print one line with every (what, figure, "<=" or ">=", bar) and exit 0 only where all hold."""
    held = all(figure <= bar if sign == "<=" else figure >= bar for _, figure, sign, bar in checks)
    told = ", ".join(f"{what} {figure:.4g} ({sign} {bar:g})" for what, figure, sign, bar in checks)
    print(f"bar-{name} {'holds' if held else 'MISSED'}: {told}")
    sys.exit(0 if held else 1)


def interleaved(runs: int, **calls: Callable[[], float]) -> dict[str, list[float]]:
    """Call every function in turn, `runs` times over, so that a noisy machine disturbs all alike."""
    results: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            results[name].append(call())
    return results


def medians(results: dict[str, list[float]]) -> dict[str, float]:
    """The median of every list."""
    return {name: statistics.median(values) for name, values in results.items()}
