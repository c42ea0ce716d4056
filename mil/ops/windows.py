"""What a sliding window's padding is: shared by convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence

from ...targets.errors import SourceUnreadable
from ..program import Operation, UnknownOperator
from ..values import Inputs


def spatial(x: Inputs, name: str, count: int, default: int = 1) -> tuple[int, ...]:
    """A vector with one value a spatial axis."""
    values = x.integers(name, (default,) * count)
    if len(values) != count:
        fact = f"{len(values)} values are given for {count} spatial axes"
        raise SourceUnreadable(fact, where=f"operation {x.where}: {name}")
    return values


def paddings(
    op: Operation, x: Inputs, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis, by `pad_type`.

    `same` pads so that the output has ceil(size / stride) elements, the odd one after; `same_lower` before.
    """
    kind = x.text("pad_type", "valid").lower()
    count = len(kernel)
    if kind == "valid":
        return [(0, 0)] * count
    if kind == "custom":
        pads = x.integers("pad", (0,) * (2 * count))
        if len(pads) != 2 * count or min(pads, default=0) < 0:
            raise SourceUnreadable(
                f"{list(pads)} is no padding of {count} axes", where=f"operation {op.name}: pad"
            )
        return [(pads[2 * axis], pads[2 * axis + 1]) for axis in range(count)]
    if kind not in ("same", "same_lower"):
        raise UnknownOperator.at(op.name, f"{op.type} with pad_type={kind}")
    found = []
    for size, width, stride, dilation in zip(x["x"].shape[2:], kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        found.append((small, large) if kind == "same" else (large, small))
    return found


def flat(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Paddings as torch.nn.functional.pad takes them: last axis first."""
    return [size for pair in reversed(pads) for size in pair]
