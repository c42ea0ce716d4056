"""A histogram of bounded size that widens as data arrives and does not depend on the order of the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BINS = 4096
"""Most bins that one histogram ever holds (32 KiB); at least half of them lie inside the data's range."""

SAMPLE = 1 << 18
"""Elements of one observed tensor that are counted; larger ones are subsampled by a fixed stride."""

_SMALLEST_EXPONENT = -126  # 2**-126 is float32's smallest normal number, so its inverse is finite too


class Histogram:
    """Counts on a grid whose bin width is a power of two and whose edges are multiples of that width.

    When data falls outside, the width doubles and neighbouring bins merge. As the grid is aligned to zero,
    merging loses nothing that counting on the wider grid would have kept: one pass gives the same counts as
    two, and the order of observations does not matter. Minimum and maximum are exact, also where the counts
    are taken from a subsample. Values that are not finite are left out and counted in `nonfinite`.
    """

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.zeros = 0
        """Counted elements that are exactly zero: they quantize without error."""
        self.nonfinite = 0
        self._exponent = _SMALLEST_EXPONENT
        self._first = 0
        self._counts = np.zeros(0, np.int64)

    @property
    def width(self) -> float:
        """Width of one bin."""
        return math.ldexp(1.0, self._exponent)

    @property
    def counts(self) -> Array:
        """Elements per bin, int64; bin `i` covers [edges[i], edges[i + 1])."""
        return self._counts

    @property
    def edges(self) -> Array:
        """Bin edges, float64, one more than there are bins."""
        return (self._first + np.arange(len(self._counts) + 1)) * self.width

    def add(self, values: Array) -> None:
        """Count one tensor of any shape and float dtype."""
        flat, low, high, dropped = finite(values)
        self.nonfinite += dropped
        if not flat.size:
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._cover()
        part = subsample(flat, values.shape)
        bins = np.multiply(part, np.float32(math.ldexp(1.0, -self._exponent)))
        # Floor before subtracting: next to a large bin index a tiny negative value would round up to zero.
        np.floor(bins, out=bins)
        np.subtract(bins, np.float32(self._first), out=bins)
        self._counts += np.bincount(bins.astype(np.int32), minlength=len(self._counts))
        self.zeros += int(part.size - np.count_nonzero(part))

    def _cover(self) -> None:
        """Widen the bins until both ends fit in `BINS` of them, then extend the counts to both ends."""
        exponent = max(self._exponent, _exponent_for(self.low, self.high))
        while _last(self.high, exponent) - _last(self.low, exponent) >= BINS:
            exponent += 1
        first, last = _last(self.low, exponent), _last(self.high, exponent)
        old = self._first + np.arange(len(self._counts))
        counts = np.zeros(last - first + 1, np.int64)
        if len(old):
            np.add.at(counts, (old >> (exponent - self._exponent)) - first, self._counts)
        self._exponent, self._first, self._counts = exponent, first, counts

    def folded(self) -> Array:
        """Counts of the absolute value on the same grid: bin `i` covers [i, i + 1) widths."""
        index = self._first + np.arange(len(self._counts))
        index = np.where(index < 0, -1 - index, index)
        return np.bincount(index, weights=self._counts).astype(np.int64)


def _exponent_for(low: float, high: float) -> int:
    """A width's exponent that is too small or just right for this range; `_cover` finds the exact one.

    Bins narrower than the spacing of float32 numbers at this magnitude would hold nothing.
    """
    spacing = math.frexp(max(abs(low), abs(high)))[1] - 24
    span = math.frexp((high - low) / BINS)[1] - 1 if high > low else _SMALLEST_EXPONENT
    return max(_SMALLEST_EXPONENT, spacing, span)


def _last(value: float, exponent: int) -> int:
    """Index of the bin that holds `value`."""
    return math.floor(math.ldexp(value, -exponent))


def finite(values: Array) -> tuple[Array, float, float, int]:
    """Flat float32 values, their minimum and maximum, and how many non-finite ones were left out."""
    flat = np.asarray(values).reshape(-1)
    if flat.dtype != np.float32:
        with np.errstate(over="ignore"):
            flat = flat.astype(np.float32)
    if not flat.size:
        return flat, math.inf, -math.inf, 0
    low, high = float(flat.min()), float(flat.max())
    if math.isfinite(low) and math.isfinite(high):
        return flat, low, high, 0
    kept = flat[np.isfinite(flat)]
    dropped = int(flat.size - kept.size)
    if not kept.size:
        return kept, math.inf, -math.inf, dropped
    return kept, float(kept.min()), float(kept.max()), dropped


def subsample(flat: Array, shape: tuple[int, ...]) -> Array:
    """At most about `SAMPLE` elements, by a stride that shares no factor with any axis of `shape`.

    A stride that divided the channel axis would see some channels only.
    """
    stride = -(-flat.size // SAMPLE)
    if stride <= 1:
        return flat
    while any(math.gcd(stride, size) > 1 for size in shape if size > 1):
        stride += 1
    return flat[::stride]
