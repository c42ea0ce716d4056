"""Pooling over windows of 1 to 3 spatial axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...targets.errors import SourceUnreadable
from ..program import Operation
from ..values import Inputs, OpFunction, Tensor, bounded
from .windows import flat, paddings, spatial

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(
    op: Operation, x: Inputs
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]], list[int]]:
    """Kernel, strides, the padding of each axis, and how much of it after the end comes from `ceil_mode` alone.

    With `ceil_mode` the last window may reach beyond the padding, but must begin before the padding after the input.
    """
    axes = x["x"].dim() - 2
    if axes not in _MAX:
        raise SourceUnreadable(f"a pool of {axes} spatial axes", where=f"operation {op.name}: x")
    kernel = spatial(x, "kernel_sizes", axes)
    strides = spatial(x, "strides", axes)
    if min(*kernel, *strides) < 1:
        raise SourceUnreadable("a kernel or stride below 1", where=f"operation {op.name}: kernel_sizes")
    pads = paddings(op, x, kernel, strides, (1,) * axes)
    extra = [0] * axes
    for axis, (before, after) in enumerate(pads):
        size, width, stride = x["x"].shape[2 + axis], kernel[axis], strides[axis]
        reach = size + before + after - width
        if x.flag("ceil_mode", False) and reach >= 0:
            count = -(-reach // stride) + 1
            if (count - 1) * stride >= size + before and before + after > 0:
                count -= 1
            extra[axis] = max(0, (count - 1) * stride - reach)
    padded = [n + sum(pads[a]) + extra[a] for a, n in enumerate(x["x"].shape[2:])]
    bounded((*x["x"].shape[:2], *padded), f"operation {op.name}: pad")
    return kernel, strides, pads, extra


def max_pool(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The largest value of each window; padding never wins."""
    kernel, strides, pads, extra = _window(op, x)
    pool = _MAX[len(kernel)]
    if _plain(x["x"], kernel, pads, extra):
        return (pool(x["x"], kernel, strides, [before for before, _ in pads]),)
    return (pool(F.pad(x["x"], flat(_with(pads, extra)), value=-torch.inf), kernel, strides),)


def avg_pool(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The mean of each window; the padding counts as zeros unless `exclude_padding_from_average`."""
    return (_average(op, x, x["x"], x.flag("exclude_padding_from_average", False)),)


def l2_pool(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The square root of each window's sum of squares."""
    kernel, strides, pads, extra = _window(op, x)
    padded = F.pad(torch.square(x["x"]), flat(_with(pads, extra)))
    count = 1
    for width in kernel:
        count *= width
    return (torch.sqrt(_AVERAGE[len(kernel)](padded, kernel, strides) * count),)


def _average(op: Operation, x: Inputs, data: Tensor, exclude: bool) -> Tensor:
    kernel, strides, pads, extra = _window(op, x)
    pool = _AVERAGE[len(kernel)]
    if _plain(x["x"], kernel, pads, extra):
        return pool(data, kernel, strides, [before for before, _ in pads], False, not exclude)
    means = pool(F.pad(data, flat(_with(pads, extra))), kernel, strides)
    # What counts in the mean, as ones: the input, and the padding that was asked for unless it is excluded.
    ones = torch.ones((1, 1, *data.shape[2:]))
    if not exclude:
        ones = F.pad(ones, flat(pads), value=1.0)
    rest = _with([(0, 0)] * len(pads), extra) if not exclude else _with(pads, extra)
    return means / pool(F.pad(ones, flat(rest)), kernel, strides)


def _plain(data: Tensor, kernel: tuple[int, ...], pads: list[tuple[int, int]], extra: list[int]) -> bool:
    """Whether torch's own pool takes this padding: the same at both ends, at most half the kernel, none from ceiling.

    And whether the kernel is no larger than the input, which torch's avg_pool3d refuses whatever the padding is.
    """
    alike = all(
        before == after and 2 * before <= width <= size
        for (before, after), width, size in zip(pads, kernel, data.shape[2:], strict=True)
    )
    return alike and not any(extra)


def _with(pads: list[tuple[int, int]], extra: list[int]) -> list[tuple[int, int]]:
    return [(before, after + more) for (before, after), more in zip(pads, extra, strict=True)]


OPS: dict[str, OpFunction] = {"avg_pool": avg_pool, "l2_pool": l2_pool, "max_pool": max_pool}
