"""What the operators check of a program before they compute with it: axes, indices and divisibility."""

from __future__ import annotations

from collections.abc import Iterable

from ....targets.errors import SourceUnreadable
from ..program import Operation
from ..values import Tensor


def axis_of(axis: int, rank: int, op: Operation) -> int:
    """`axis` counted from the front; it may count from the back, but not lie outside `rank` dimensions."""
    if not -rank <= axis < rank:
        raise SourceUnreadable(f"axis {axis} of a value with {rank} dimensions", where=op.name)
    return axis % rank


def axes_of(axes: Iterable[int], rank: int, op: Operation) -> tuple[int, ...]:
    """`axes` counted from the front, ascending, each once."""
    return tuple(sorted({axis_of(axis, rank, op) for axis in axes}))


def indices_of(indices: Tensor, size: int, op: Operation) -> Tensor:
    """`indices` as int64 counted from the front of an axis of `size`.

    Negative ones count from the back (iOS15 and iOS16; from iOS17 on they are undefined, and frontends write
    none). One outside is an error: Core ML reads something undefined there, so nothing could be compared.
    """
    indices = indices.long()
    if indices.numel():
        low, high = int(indices.min()), int(indices.max())
        if low < -size or high >= size:
            raise SourceUnreadable(
                f"the index {high if high >= size else low} on an axis of {size} elements", where=op.name
            )
        if low < 0:
            indices = indices.where(indices >= 0, indices + size)
    return indices


def blocks_of(whole: Iterable[int], parts: Iterable[int], op: Operation) -> tuple[int, ...]:
    """Elements that share one part on each axis: whole / part, which must divide without a rest."""
    pairs = tuple(zip(whole, parts, strict=False))
    if any(part < 1 or size % part for size, part in pairs):
        raise SourceUnreadable(
            f"{[part for _, part in pairs]} blocks do not divide a value of shape {[size for size, _ in pairs]}",
            where=op.name,
        )
    return tuple(size // part for size, part in pairs)
