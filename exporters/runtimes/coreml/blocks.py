"""int4 weights in blocks: for each block the scale that loses least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

LOW, HIGH = -8, 7
"""What four bits hold."""

LARGEST_AT = (8.0, 7.5, 7.0, 6.5, 6.0, 5.5, 5.0)
"""Where on the scale of integers the largest weight of a block may fall. Beyond the last integer it is cut, which pays
where all others gain a finer step; before it a coarser step may happen to fit better."""

SLICE = 1 << 22
"""Weights that are searched at a time, so that the search's arrays stay small."""


def quantized(weights: Array, sizes: Sequence[int]) -> tuple[Array, Array]:
    """(integers, scales) of least squared error with weights ~ integers * scales.

    `sizes` is the block's size along each axis, 0 for the whole axis; each divides its axis. The integers are
    int8 in -8..7 and of the weights' shape; the scales have the weights' dtype, one a block, as the search
    rounds them before it compares.
    """
    import numpy as np

    counts = [size // block if block else 1 for size, block in zip(weights.shape, sizes, strict=True)]
    split = [
        part for size, count in zip(weights.shape, counts, strict=True) for part in (count, size // count)
    ]
    outer, inner = range(0, len(split), 2), range(1, len(split), 2)
    order = (*outer, *inner)
    rows = weights.reshape(split).transpose(order).reshape(int(np.prod(counts)), -1)
    integers = np.empty(rows.shape, np.int8)
    scales = np.empty(len(rows), weights.dtype)
    step = max(1, SLICE // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        integers[part], scales[part] = _searched(rows[part].astype(np.float32), weights.dtype)
    moved = [split[axis] for axis in order]
    back = integers.reshape(moved).transpose(np.argsort(order)).reshape(weights.shape)
    return np.ascontiguousarray(back), scales.reshape(counts)


def _searched(rows: Array, dtype: Any) -> tuple[Array, Array]:
    """(integers, scales) of rows that have one scale each, trying both signs' room and every candidate."""
    import numpy as np

    largest = np.abs(rows).max(axis=1)
    best = np.full(len(rows), np.inf, np.float32)
    integers = np.zeros(rows.shape, np.int8)
    scales = np.ones(len(rows), dtype)
    for position in LARGEST_AT:
        with np.errstate(over="ignore"):
            tried = (largest / position).astype(dtype)
        tried[tried == 0] = 1  # a block of zeros, or of numbers too small for the scale's dtype
        wide = tried.astype(np.float32)[:, None]
        levels = np.clip(np.rint(rows / wide), LOW, HIGH)
        lost = np.square(rows - levels * wide).sum(axis=1)
        better = lost < best
        best[better], scales[better] = lost[better], tried[better]
        integers[better] = levels[better].astype(np.int8)
    return integers, scales
