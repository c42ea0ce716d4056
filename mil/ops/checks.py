"""What the operators check of a program before they compute with it: axes, indices and divisibility."""

from __future__ import annotations

from collections.abc import Iterable

from ...targets.errors import SourceUnreadable
from ..program import Operation, UnknownOperator
from ..values import Inputs, Tensor


def axis_of(axis: int, rank: int, op: Operation) -> int:
    """`axis` counted from the front; it may count from the back, but not lie outside `rank` dimensions."""
    if not -rank <= axis < rank:
        raise SourceUnreadable(f"axis {axis} of a value with {rank} dimensions", where=op.name)
    return axis % rank


def axes_of(axes: Iterable[int], rank: int, op: Operation) -> tuple[int, ...]:
    """`axes` counted from the front, ascending, each once."""
    return tuple(sorted({axis_of(axis, rank, op) for axis in axes}))


def indices_of(indices: Tensor, size: int, op: Operation, x: Inputs) -> Tensor:
    """`indices` as int64 counted from the front of an axis of `size`.

    Negative ones count from the back, up to iOS16; from iOS17 on, where operators have `validate_indices`, they are
    undefined unless they are validated. One outside is an error: Core ML reads something undefined there, so nothing
    could be compared.
    """
    indices = indices.long()
    if not indices.numel():
        return indices
    low, high = int(indices.min()), int(indices.max())
    lowest = 0 if x.flag("validate_indices", False) else -size
    if low < lowest or high >= size:
        raise SourceUnreadable(
            f"the index {high if high >= size else low} on an axis of {size} elements", where=op.name
        )
    if low < 0 and "validate_indices" in x:
        raise UnknownOperator.at(op.name, f"{op.type} with the negative index {low}")
    return indices if low >= 0 else indices.where(indices >= 0, indices + size)


def blocks_of(whole: Iterable[int], parts: Iterable[int], op: Operation) -> tuple[int, ...]:
    """Elements that share one part on each axis: whole / part, which must divide without a rest."""
    pairs = tuple(zip(whole, parts, strict=False))
    if any(part < 1 or size % part for size, part in pairs):
        raise SourceUnreadable(
            f"{[part for _, part in pairs]} blocks do not divide a value of shape {[size for size, _ in pairs]}",
            where=op.name,
        )
    return tuple(size // part for size, part in pairs)
