"""Values made from a rule: ranges, one-hot vectors, bands, places that are not zero, and a classifier's answer."""

from __future__ import annotations

import math

import torch

from ...targets.errors import SourceUnreadable
from ..program import Operation
from ..values import Inputs, OpFunction, Tensor, Value, bounded
from .checks import axis_of


def range_1d(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """start, start + step, ... up to but without `end`, as numpy.arange."""
    start, end, step = (x[name].reshape(()) for name in ("start", "end", "step"))
    if not float(step) or not all(math.isfinite(float(value)) for value in (start, end, step)):
        raise SourceUnreadable(f"a range from {float(start)} to {float(end)} by {float(step)}", where=op.name)
    (count,) = bounded((max(math.ceil((end.double() - start.double()) / step.double()), 0),), op.name)
    return (start + step * torch.arange(count),)


def one_hot(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """`on_value` at each index on a new axis, `off_value` elsewhere; an index outside has none."""
    indices, size = x["indices"], x.integer("one_hot_vector_size")
    axis = axis_of(x.integer("axis", -1), indices.dim() + 1, op)
    bounded((*indices.shape, size), op.name)
    places = torch.arange(size).reshape(-1, *[1] * (indices.dim() - axis))
    on, off = x.optional("on_value"), x.optional("off_value")
    on, off = torch.tensor(1) if on is None else on, torch.tensor(0) if off is None else off
    return (torch.where(indices.long().unsqueeze(axis) == places, on.reshape(()), off.reshape(())),)


def band_part(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """`lower` diagonals below and `upper` above the main one of the last two axes, zeros elsewhere; -1 keeps all."""
    data, lower, upper = x["x"], x.integer("lower", -1), x.integer("upper", -1)
    below = torch.arange(data.shape[-2])[:, None] - torch.arange(data.shape[-1])
    keep = torch.ones_like(below, dtype=torch.bool)
    if lower >= 0:
        keep &= below <= lower
    if upper >= 0:
        keep &= -below <= upper
    return (torch.where(keep, data, torch.zeros((), dtype=data.dtype)),)


def non_zero(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The coordinates of the elements that are not zero: [N, rank]."""
    return (torch.nonzero(x["x"]),)


def classify(op: Operation, x: Inputs) -> tuple[Value, ...]:
    """The class with the highest probability, and the probabilities in the order of `classes`.

    Core ML's second output is a dictionary by class; here it is an array, not a tensor, since MIL gives it no shape.
    """
    probabilities = x["probabilities"].reshape(-1)
    classes = x["classes"]
    names = classes.tolist() if isinstance(classes, Tensor) else list(x.many("classes"))
    if len(names) != probabilities.numel() or not names:
        raise SourceUnreadable(
            f"{len(names)} classes for {probabilities.numel()} probabilities", where=op.name
        )
    return names[int(probabilities.argmax())], probabilities.numpy()


OPS: dict[str, OpFunction] = {
    "band_part": band_part,
    "classify": classify,
    "non_zero": non_zero,
    "one_hot": one_hot,
    "range_1d": range_1d,
}
