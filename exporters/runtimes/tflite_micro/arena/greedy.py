"""TensorFlow Lite Micro's memory planner: largest buffers first, each in the lowest gap among those alive with it."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 16
"""Bytes: MicroArenaBufferAlignment in micro/micro_arena_constants.h."""


def align(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


@dataclass(frozen=True)
class Need:
    """One buffer that the planner has to place."""

    size: int
    """Bytes, a multiple of ALIGNMENT."""
    first: int
    """Step at which it is first written."""
    last: int
    """Step at which it is last used, inclusive."""
    fixed: int | None = None
    """Its offset, where it was planned beforehand; such buffers may overlap."""

    def overlaps(self, other: Need) -> bool:
        """Whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


def place(needs: Sequence[Need]) -> tuple[int, ...]:
    """The offset of each buffer.

    After micro/memory_planner/greedy_memory_planner.cc (CalculateOffsetsIfNeeded): buffers with a fixed offset
    first, then by size, the largest first; of equal sizes the one that was added last comes first.
    """
    fixed = [index for index, need in enumerate(needs) if need.fixed is not None]
    free = [index for index in reversed(range(len(needs))) if needs[index].fixed is None]
    free.sort(key=lambda index: -needs[index].size)
    offsets = [0] * len(needs)
    placed: list[int] = []
    """Buffers by offset; of equal offsets in the order in which they were placed."""
    for index in (*fixed, *free):
        need = needs[index]
        offsets[index] = _gap(need, needs, offsets, placed) if need.fixed is None else need.fixed
        bisect.insort_right(placed, index, key=lambda other: offsets[other])
    return tuple(offsets)


def _gap(need: Need, needs: Sequence[Need], offsets: Sequence[int], placed: Sequence[int]) -> int:
    """The lowest offset at which `need` meets no buffer that is alive with it."""
    lowest = 0
    for other in placed:
        if not need.overlaps(needs[other]):
            continue
        if offsets[other] - lowest >= need.size:
            break
        lowest = max(lowest, offsets[other] + needs[other].size)
    return lowest


def extent(needs: Sequence[Need], offsets: Sequence[int]) -> int:
    """Bytes from 0 to the end of the last buffer."""
    return max((offset + need.size for need, offset in zip(needs, offsets, strict=True)), default=0)
