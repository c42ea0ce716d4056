"""What would make a graph fit a small device: a smaller image, fewer channels, another order of operators."""

from __future__ import annotations

import math

from .facts import DTYPE_BITS, IoFact
from .figures import size
from .verdict import Case

STEP = 8
"""Sides of images are multiples of this."""
SMALLEST_SIDE = 32
SMALLEST_WIDTH = 0.1


def advice(case: Case, ram: float, flash: float, by_channel: float) -> tuple[str, ...]:
    """Sentences on what to change in the model, each with what it would take then.

    `ram` is what activations can have with `by_channel`, the bytes that kernels keep for every channel; `flash` is
    what weights can have. Activations grow with the square of an image's side and with the number of channels,
    weights with the square of the number of channels.
    """
    peak = case.facts.peak
    if peak is None:
        return ()
    bits = DTYPE_BITS[case.scheme.activations]
    needed = peak.elements * case.batch * bits / 8
    weights = case.counts.elements * case.scheme.weight_bits / 8
    found = []
    if reorderable(case, ram - by_channel):
        floor = peak.floor * case.batch * bits / 8
        found.append(f"another order of operators may need as little as {size(floor)}: --fit looks for it")
    width = _width(math.sqrt(max(flash, 0) / weights)) if weights > flash else 1.0
    if width < 1 and case.facts.tensors and width < SMALLEST_WIDTH:
        return tuple(found)
    side = _image_side(case)
    room = (ram - by_channel * width) / (needed * width)
    if side is not None and room < 1:
        smaller = math.floor(side * math.sqrt(max(room, 0)) / STEP) * STEP
        if smaller >= SMALLEST_SIDE:
            share = (smaller / side) ** 2
            changes = [f"images of {smaller} x {smaller} instead of {side} x {side} pixels"]
            changes += [f"{width:g} of the channels"] if width < 1 else []
            return (*found, _said(changes, needed * width * share, weights * width**2))
    if room < 1:
        width = min(width, _width(ram / (needed + by_channel)))
    if SMALLEST_WIDTH <= width < 1:
        found.append(_said([f"{width:g} of the channels"], needed * width, weights * width**2))
    return tuple(found)


def reorderable(case: Case, ram: float) -> bool:
    """Whether the peak is above `ram` bytes, and what single operators read and write is not."""
    peak = case.facts.peak
    if peak is None:
        return False
    each = case.batch * DTYPE_BITS[case.scheme.activations] / 8
    return peak.floor * each <= ram < peak.elements * each


def _said(changes: list[str], ram: float, flash: float) -> str:
    return (
        f"train it with {' and '.join(changes)}: activations take about {size(ram)} then,"
        f" weights about {size(flash)}; accuracy has to be measured anew"
    )


def _width(share: float) -> float:
    return math.floor(share * 20) / 20


def _image_side(case: Case) -> int | None:
    """The longer side of the one image input; None where there is none."""
    for given in case.facts.inputs:
        side = image_side(given)
        if side is not None:
            return side
    return None


def image_side(given: IoFact) -> int | None:
    """The longer side of an input of rank 4 whose channels are the smaller axis at either end."""
    shape = given.shape
    if shape is None or len(shape) != 4:
        return None
    sides = shape[2:] if isinstance(shape[1], int) and shape[1] <= 4 else shape[1:3]
    numbers = [each for each in sides if isinstance(each, int)]
    return max(numbers) if len(numbers) == 2 else None
