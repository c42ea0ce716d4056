"""Activation ranges from calibration data, one tensor at a time: min-max, percentile, entropy and MSE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..targets.errors import UsageError
from .histogram import Array, Histogram, finite

OBSERVERS = ("minmax", "percentile", "entropy", "mse")
"""Every observer by name. "percentile" takes a figure of its own: "percentile:99.9" (99.99 otherwise)."""

PERCENTILE = 99.99
_STEPS = 64  # candidate thresholds that the MSE search tries a side
_PASSES = 3  # alternations between the two sides of an asymmetric range


class Observer(Protocol):
    """Sees one activation tensor again and again, keeps bounded memory, and names its range in the end."""

    def observe(self, values: Array) -> None:
        """Take in one tensor of any shape; values that are not finite are ignored."""

    def range(self) -> tuple[float, float]:
        """(low, high) to quantize to; (0.0, 0.0) when only zeros were seen. ValueError before any data."""


def make(
    name: str, *, symmetric: bool = False, bits: int = 8, include_zero: bool = True
) -> Callable[[], Observer]:
    """A factory of observers called `name`; call the result once for each tensor.

    Args:
        name: one of `OBSERVERS`, or "percentile:P" with 50 < P <= 100.
        symmetric: ranges (-t, t), for signed integers without a zero point.
        bits: width of the integers that the range is meant for (entropy and MSE depend on it).
        include_zero: widen ranges so that low <= 0 <= high. Affine quantization wants that: padding and ReLU
            must hit zero exactly.

    Raises:
        UsageError: unknown name or percentile.
    """
    kind, _, figure = name.partition(":")
    if kind not in OBSERVERS or (figure and kind != "percentile"):
        raise UsageError(
            f"there is no observer {name!r}", where="--observer", mend=f"Known are {', '.join(OBSERVERS)}"
        )
    if kind == "percentile":
        percentile = _percentile(figure)
        return lambda: Percentile(percentile, symmetric=symmetric, include_zero=include_zero)
    if kind == "entropy":
        return lambda: Entropy(bits=bits, symmetric=symmetric, include_zero=include_zero)
    if kind == "mse":
        return lambda: MSE(bits=bits, symmetric=symmetric, include_zero=include_zero)
    return lambda: MinMax(symmetric=symmetric, include_zero=include_zero)


def _percentile(figure: str) -> float:
    try:
        percentile = float(figure or PERCENTILE)
    except ValueError:
        percentile = math.nan
    if not 50 < percentile <= 100:
        raise UsageError(
            f"{figure!r} is no percentile",
            where="--observer",
            mend="Give 50 < P <= 100: percentile:99.9",
        )
    return percentile


class MinMax:
    """The smallest and the largest value seen, exactly."""

    def __init__(self, *, symmetric: bool = False, include_zero: bool = True) -> None:
        self._symmetric, self._include_zero = symmetric, include_zero
        self._low, self._high = math.inf, -math.inf

    def observe(self, values: Array) -> None:
        """Take in one tensor."""
        _, low, high, _ = finite(values)
        self._low, self._high = min(self._low, low), max(self._high, high)

    def range(self) -> tuple[float, float]:
        """(minimum, maximum)."""
        return _settle(self._low, self._high, self._symmetric, self._include_zero)


class _OnHistogram(ABC):
    """What the observers below share: a histogram, and an end that never leaves the data's true range."""

    def __init__(self, *, symmetric: bool = False, include_zero: bool = True) -> None:
        self._symmetric, self._include_zero = symmetric, include_zero
        self._histogram = Histogram()

    def observe(self, values: Array) -> None:
        """Take in one tensor."""
        self._histogram.add(values)

    def range(self) -> tuple[float, float]:
        """(low, high), inside the minimum and maximum that were seen."""
        seen = self._histogram
        low, high = seen.low, seen.high
        if low < high:
            chosen_low, chosen_high = self._clip(seen)
            # Both ends are held to the data; a choice that lies wholly beside the data says nothing.
            if chosen_low < high and chosen_high > low:
                low, high = max(chosen_low, low), min(chosen_high, high)
        return _settle(low, high, self._symmetric, self._include_zero)

    @abstractmethod
    def _clip(self, seen: Histogram) -> tuple[float, float]:
        """The range that this method would choose, before it is held to what was seen."""


class Percentile(_OnHistogram):
    """Cuts (100 - P) % of the values: half of it at each end, or all of it by absolute value if symmetric."""

    def __init__(
        self, percentile: float = PERCENTILE, *, symmetric: bool = False, include_zero: bool = True
    ) -> None:
        super().__init__(symmetric=symmetric, include_zero=include_zero)
        self._cut = (100 - percentile) / 100

    def _clip(self, seen: Histogram) -> tuple[float, float]:
        if self._symmetric:
            folded = seen.folded()
            bound = _quantile(folded, np.arange(len(folded) + 1) * seen.width, 1 - self._cut)
            return -bound, bound
        edges = seen.edges
        return (
            _quantile(seen.counts, edges, self._cut / 2),
            _quantile(seen.counts, edges, 1 - self._cut / 2),
        )


class Entropy(_OnHistogram):
    """The threshold whose quantized histogram diverges least (Kullback-Leibler) from the original.

    The method of TensorRT's int8 calibration (S. Migacz, "8-bit inference with TensorRT", GTC 2017), on the
    absolute value; a range that is not symmetric keeps its true end where that is nearer than the threshold.
    """

    def __init__(self, *, bits: int = 8, symmetric: bool = False, include_zero: bool = True) -> None:
        super().__init__(symmetric=symmetric, include_zero=include_zero)
        self._bits = bits

    def _clip(self, seen: Histogram) -> tuple[float, float]:
        one_sided = seen.low >= 0 or seen.high <= 0
        levels = 2**self._bits if one_sided and not self._symmetric else 2 ** (self._bits - 1)
        folded = seen.folded().astype(np.float64)
        # Migacz leaves out the first bin: exact zeros would decide alone, and they have no error.
        folded[0] = folded[1] if len(folded) > 1 else folded[0]
        threshold = _least_divergent(folded, levels) * seen.width
        return -threshold, threshold


class MSE(_OnHistogram):
    """The range of least mean squared error: clipping outside it, rounding (step² / 12) inside it."""

    def __init__(self, *, bits: int = 8, symmetric: bool = False, include_zero: bool = True) -> None:
        super().__init__(symmetric=symmetric, include_zero=include_zero)
        self._bits = bits

    def _clip(self, seen: Histogram) -> tuple[float, float]:
        counts = seen.counts.astype(np.float64)
        edges = seen.edges
        centers = (edges[:-1] + edges[1:]) / 2
        kept = counts > 0
        counts, centers = counts[kept], centers[kept]
        fractions = np.arange(_STEPS, 0, -1) / _STEPS
        if self._symmetric:
            bounds = fractions * max(abs(seen.low), abs(seen.high))
            steps = bounds / (2 ** (self._bits - 1) - 1)
            errors = _errors(counts, centers, -bounds, bounds, steps, seen.zeros)
            best = float(bounds[np.argmin(errors)])
            return -best, best
        low, high = min(seen.low, 0.0), max(seen.high, 0.0)
        lows, highs = fractions * low, fractions * high
        for _ in range(_PASSES):
            before = (low, high)
            high = self._best(counts, centers, np.full(_STEPS, low), highs, seen.zeros)[1]
            low = self._best(counts, centers, lows, np.full(_STEPS, high), seen.zeros)[0]
            if (low, high) == before:
                break
        return low, high

    def _best(
        self, counts: Array, centers: Array, lows: Array, highs: Array, zeros: int
    ) -> tuple[float, float]:
        steps = (highs - lows) / (2**self._bits - 1)
        best = int(np.argmin(_errors(counts, centers, lows, highs, steps, zeros)))
        return float(lows[best]), float(highs[best])


def _settle(low: float, high: float, symmetric: bool, include_zero: bool) -> tuple[float, float]:
    if low > high:
        raise ValueError("no finite value was observed")
    if symmetric:
        bound = max(abs(low), abs(high))
        return -bound, bound
    return (min(low, 0.0), max(high, 0.0)) if include_zero else (low, high)


def _quantile(counts: Array, edges: Array, share: float) -> float:
    """The value below which `share` of the counts lie, linear inside a bin."""
    cumulated = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    return float(np.interp(share * cumulated[-1], cumulated, edges))


def _errors(counts: Array, centers: Array, lows: Array, highs: Array, steps: Array, zeros: int) -> Array:
    """Summed squared error for each candidate range; exact zeros have none, since zero is representable."""
    clipped = centers[None, :] - np.clip(centers[None, :], lows[:, None], highs[:, None])
    outside = clipped != 0
    inside = np.where(outside, 0.0, counts[None, :]).sum(axis=1) - zeros
    clipping = (clipped * clipped) @ counts
    result: Array = clipping + np.maximum(inside, 0.0) * steps * steps / 12
    return result


def _least_divergent(counts: Array, levels: int) -> int:
    """How many leading bins to keep so that `levels` quantized bins resemble the clipped histogram most."""
    bins = len(counts)
    if bins <= levels:
        return bins
    best, least = bins, math.inf
    # A stride keeps the search at about 128 candidates whatever the number of bins.
    for keep in range(bins, levels - 1, -max(1, (bins - levels) // 128)):
        divergence = _divergence(counts, keep, levels)
        if divergence < least:
            best, least = keep, divergence
    return best


def _divergence(counts: Array, keep: int, levels: int) -> float:
    """KL(P || Q): P is the histogram clipped to `keep` bins, Q the same seen through `levels` levels."""
    clipped = counts[:keep]
    reference = clipped.copy()
    reference[-1] += counts[keep:].sum()
    starts = np.arange(levels) * keep // levels
    present = (clipped > 0).astype(np.float64)
    mass = np.add.reduceat(clipped, starts)
    share = np.add.reduceat(present, starts)
    level = np.repeat(np.arange(levels), np.diff(np.append(starts, keep)))
    quantized = np.where(present > 0, (mass / np.maximum(share, 1))[level], 0.0)
    total, quantized_total = reference.sum(), quantized.sum()
    if not total or not quantized_total:
        return math.inf
    # Smoothing, as mass that was clipped into an empty last bin would make the divergence infinite.
    smallest = 1e-9
    p = reference / total + smallest
    q = quantized / quantized_total + smallest
    return float(np.sum(p * np.log(p / q)))
