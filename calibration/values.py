"""The doctor's look at values: one pass over an input's samples, and what their statistics give away."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..targets.facts import IoFact
from .doctor import Finding, error, warning
from .preprocess import Preprocessing
from .samples import Rows

Array = np.ndarray[Any, Any]

NATURAL = (0.485, 0.456, 0.406)
"""Mean red, green and blue of ImageNet's training images at 0..1: photographs are warmer than they are cold."""


@dataclass(frozen=True)
class Look:
    """Statistics of all samples of one input."""

    count: int
    low: float
    high: float
    nan: int | None
    """Index of the first sample that holds a NaN."""
    inf: int | None
    varies: bool
    """Whether any sample differs from the first."""
    blank: int
    """Samples whose elements are all the same."""
    whole: bool
    """Whether every value of the first samples is a whole number."""
    channels: Array | None
    """Mean per sample and channel, (count, 3), for images of three channels."""
    empty: int
    """Samples that are zero throughout."""


def look(array: Rows) -> Look:
    """One pass, one sample in memory at a time."""
    low, high, nan, inf, blank, empty, varies, whole = math.inf, -math.inf, None, None, 0, 0, False, True
    axis = _channel_axis(array.shape)
    first = np.asarray(array[0]) if len(array) else np.empty(0)
    means = []
    for index in range(len(array)):
        sample = np.asarray(array[index])
        if sample.dtype.kind == "f" and not np.isfinite(sample).all():
            if nan is None and np.isnan(sample).any():
                nan = index
            if inf is None and np.isinf(sample).any():
                inf = index
            continue
        if not sample.size:
            continue
        least, most = float(sample.min()), float(sample.max())
        low, high = min(low, least), max(high, most)
        blank += least == most
        empty += least == most == 0
        varies = varies or not np.array_equal(sample, first)
        if whole and index < 8:
            whole = sample.dtype.kind != "f" or bool((sample == np.floor(sample)).all())
        if axis is not None:
            other = tuple(number for number in range(3) if number != axis)
            means.append(sample.mean(axis=other, dtype=np.float64))
    channels = np.stack(means) if means else None
    return Look(len(array), low, high, nan, inf, varies, blank, whole, channels, empty)


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of one sample that holds three colour channels, where there is exactly one such axis."""
    if len(shape) != 4 or 3 not in (shape[1], shape[3]) or shape[1] == shape[3]:
        return None
    return 0 if shape[1] == 3 else 2


def floats(io: IoFact, seen: Look, expects: Preprocessing | None, *, order_known: bool) -> list[Finding]:
    """Findings about a float input: NaN and Inf, range, channels, constant and blank samples."""
    for index, code, word in ((seen.nan, "nan", "NaN"), (seen.inf, "inf", "infinite values")):
        if index is not None:
            return [error(code, io.name, f"sample {index} holds {word}", "Remove or repair that sample")]
    findings = [*_constant(io, seen)]
    if seen.blank > max(1, seen.count // 10) and seen.varies and _elements(io) != 1:
        findings.append(
            warning(
                "blank",
                io.name,
                f"{seen.blank} of {seen.count} samples hold one value throughout",
                "Look whether they were read rightly",
            )
        )
    image = io.shape is not None and len(io.shape) == 4
    if image:
        ranges = _range(io, seen, expects)
        findings += ranges
        # Without the right scale, or with an unknown normalisation, channels cannot be compared.
        comparable = not ranges and (expects is not None or seen.low >= 0)
        if comparable and not order_known and seen.channels is not None:
            findings += _swapped(io, seen.channels, expects)
    return findings


def _elements(io: IoFact) -> int | None:
    """Elements of one sample; None when a size is free."""
    sizes = io.shape[1:] if io.shape is not None else (None,)
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None  # type: ignore[arg-type]


def _constant(io: IoFact, seen: Look) -> list[Finding]:
    if seen.varies or seen.count < 2:
        return []
    return [
        warning(
            "constant",
            io.name,
            f"all {seen.count} samples are the same",
            "Ranges measured on a constant input are worthless; check how the data was made",
        )
    ]


def _range(io: IoFact, seen: Look, expects: Preprocessing | None) -> list[Finding]:
    has = f"values run from {seen.low:.4g} to {seen.high:.4g}"
    raw = seen.whole and seen.low >= 0 and 64 < seen.high <= 255
    if expects is None:
        if not raw:
            return []
        return [
            warning(
                "range",
                io.name,
                f"{has}, like raw pixels",
                "Scale them as in training, unless the model scales its input itself",
            )
        ]
    low, high = expects.value_range
    wanted = f"{has}, and {expects.origin} makes {low:.4g} to {high:.4g}"
    span = max(abs(low), abs(high))
    if max(abs(seen.low), abs(seen.high)) > 4 * span:
        finding = error if raw else warning
        return [finding("range", io.name, wanted, "Apply its scale, mean and std to the data")]
    unscaled = high > 64 and seen.high <= 1.01
    unnormalised = low < -0.3 and seen.low >= 0
    normalised = low >= 0 and seen.low < -0.05 * span
    if unscaled or unnormalised or normalised:
        return [warning("range", io.name, wanted, "Prepare the data as the model's images are")]
    return []


def _swapped(io: IoFact, channels: Array, expects: Preprocessing | None) -> list[Finding]:
    """Whether the third channel is systematically brighter than the first, as in BGR photographs.

    The paired difference per image, in units of 0..1 pixels, is tested against zero (t < -3): images of one
    tint alone do not decide, grey ones never do. Blue scenes look the same, so this only warns.
    """
    if len(channels) < 16:
        return []
    means, stds = (expects.mean or (0.0,), expects.std or (1.0,)) if expects is not None else ((0.0,), (1.0,))
    scale = expects.scale * 255 if expects is not None else 1.0
    pixels = (channels * np.asarray(stds) + np.asarray(means)) / scale
    difference = pixels[:, 0] - pixels[:, 2]
    if expects is None and channels.max() > 1:
        difference = difference / 255
    if expects is not None and expects.channels == "bgr":
        difference = -difference
    spread = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    mean = float(difference.mean())
    if mean > -0.02 or mean > -3 * spread:
        return []
    return [
        warning(
            "channels",
            io.name,
            f"the last channel is brighter than the first by {-mean:.3f} on average; photographs in the model's "
            f"channel order show the opposite ({NATURAL[0] - NATURAL[2]:.3f})",
            "If the images were read as BGR (OpenCV does), reverse the channels; blue scenes look the same",
        )
    ]


def integers(io: IoFact, seen: Look, *, vocabulary: int | None, token_types: int | None) -> list[Finding]:
    """Findings about an integer or boolean input: masks, token types, ids outside the vocabulary."""
    name = io.name.lower()
    has = f"values run from {seen.low:.0f} to {seen.high:.0f}"
    if "mask" in name:
        if seen.low < 0 or seen.high > 1:
            return [error("mask", io.name, f"{has}; a mask holds 0 and 1 only")]
        if seen.empty:
            text = f"{seen.empty} of {seen.count} samples mask every token"
            return [warning("mask", io.name, text, "Give 1 for each token that counts")]
        return []
    if "type" in name or "segment" in name:
        if seen.low < 0 or (token_types is not None and seen.high >= token_types):
            known = f"; the model knows {token_types} token types" if token_types is not None else ""
            return [error("vocabulary", io.name, has + known)]
        return []
    if "position" in name or (io.shape is not None and len(io.shape) == 4):
        return []
    if io.dtype in ("int64", "int32") and io.shape is not None and len(io.shape) == 2:
        outside = vocabulary is not None and seen.high >= vocabulary
        if seen.low < 0 or outside:
            known = f"; the model's vocabulary has {vocabulary} entries" if vocabulary is not None else ""
            return [error("vocabulary", io.name, f"{has}{known}", "Tokenize with the model's own tokenizer")]
    return _constant(io, seen)


def digests(arrays: Mapping[str, Rows]) -> list[bytes]:
    """One SHA-256 a sample over all its inputs: equal exactly for copies."""
    count = min((len(array) for array in arrays.values()), default=0)
    found = []
    for index in range(count):
        digest = hashlib.sha256()
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array[index]).tobytes())
        found.append(digest.digest())
    return found
