"""What an activation was seen to hold while the float model ran, and whether 8 bits can hold it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np

from .histogram import Array
from .observers import MinMax, Observer

SENTINEL = 1e30
"""Beyond it a value stands for infinity: padding before a maximum, masked attention scores."""


@dataclass(frozen=True)
class Range:
    """What one activation tensor was seen to hold; `low` and `high` are the observer's choice."""

    low: float
    high: float
    span: float
    """From the smallest to the largest value (or zero) that was seen, whatever the observer cut off."""
    power: float
    """Mean square of a typical row (last axis; of the whole tensor for feature maps): the median over all."""

    @property
    def sqnr_db(self) -> float:
        """Signal to noise in dB when a typical row is rounded to 8 bits over all that was seen.

        Uniform noise of one step s has the power s²/12 (Widrow and Kollár, "Quantization Noise", 2008). One
        row with huge values makes the step coarse for all others, and this figure falls.
        """
        step = self.span / 255
        if step == 0 or self.power == 0:
            return math.inf
        return 10 * math.log10(self.power / (step * step / 12))


class Watch:
    """Sees one activation again and again; gives its `Range` in the end."""

    def __init__(self, observer: Observer, *, feature_map: bool) -> None:
        """Args: `feature_map`: the typical row is the whole tensor, as for images."""
        self._observer, self._extremes, self._feature_map = observer, MinMax(), feature_map
        self._powers: list[float] = []

    def observe(self, values: Array) -> None:
        """Take in one tensor of any shape."""
        if self._feature_map:
            self._powers.append(float(np.mean(np.square(values, dtype=np.float64))))
        else:
            self._powers.append(typical_row(values))
        values = without_sentinels(values)
        self._observer.observe(values)
        self._extremes.observe(values)

    def range(self) -> Range:
        """The range over all that was seen. ValueError before any finite value."""
        low, high = self._extremes.range()
        return Range(*self._observer.range(), high - low, statistics.median(self._powers))


def typical_row(values: Array) -> float:
    """Median over the rows that are not all zero of a row's mean square."""
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    means = np.einsum("ij,ij->i", rows, rows) / max(rows.shape[1], 1)
    means = means[means > 0]
    return float(np.median(means)) if means.size else 0.0


def without_sentinels(values: Array) -> Array:
    """The values without those that stand for infinity; one zero where nothing is left."""
    if values.size and (values.min() < -SENTINEL or values.max() > SENTINEL):
        inside: Array = values[np.abs(values) < SENTINEL]
        return inside if inside.size else np.zeros(1, np.float32)
    return values
