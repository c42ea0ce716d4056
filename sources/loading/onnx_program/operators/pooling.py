"""Pools over windows, and over everything."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .. import padding
from ..call import Call, Operator

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(call: Call, x: torch.Tensor) -> tuple[list[int], list[int], list[int], list[tuple[int, int]]]:
    """Kernel, strides, dilations and padding, the padding lengthened where sizes are rounded up."""
    kernel = list(call.get("kernel_shape"))
    rank = len(kernel)
    if rank not in MAX:
        raise call.refuse(f"over {rank} spatial axes")
    strides = list(call.get("strides") or [1] * rank)
    dilations = list(call.get("dilations") or [1] * rank)
    pads = padding.amounts(call, list(x.shape[2:]), kernel, strides, dilations)
    return kernel, strides, dilations, pads


def _ceiled(
    call: Call, x: torch.Tensor, kernel: list[int], strides: list[int], dilations: list[int],
    pads: list[tuple[int, int]],
) -> list[int]:  # fmt: skip
    """What each axis lacks for its last window, where ceil_mode counts that window."""
    if not call.get("ceil_mode", 0):
        return [0] * len(kernel)
    lacking = []
    for size, width, stride, dilation, (before, after) in zip(
        x.shape[2:], kernel, strides, dilations, pads, strict=True
    ):
        reach = (width - 1) * dilation + 1
        span = size + before + after - reach
        windows = math.ceil(span / stride) + 1
        if (windows - 1) * stride >= size + before:
            windows -= 1  # a window that begins in the padding at the end is left out
        lacking.append(max((windows - 1) * stride - span, 0))
    return lacking


def max_pool(call: Call) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Padding never wins."""
    x = call.tensor(0)
    kernel, strides, dilations, pads = _window(call, x)
    if call.outputs > 1:
        raise call.refuse("with indices")
    lacking = _ceiled(call, x, kernel, strides, dilations, pads)
    pads = [(before, after + more) for (before, after), more in zip(pads, lacking, strict=True)]
    if any(amount for pair in pads for amount in pair):
        least = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x = F.pad(x, padding.flat(pads), value=least)
    wide = x if x.is_floating_point() else x.to(torch.float64)
    return MAX[len(kernel)](wide, kernel, strides, 0, dilations).to(x.dtype)


def average_pool(call: Call) -> torch.Tensor:
    """With or without the padding counted; what lies beyond it never counts."""
    x = call.tensor(0)
    kernel, strides, dilations, pads = _window(call, x)
    if any(dilation != 1 for dilation in dilations):
        raise call.refuse("with dilations")
    lacking = _ceiled(call, x, kernel, strides, dilations, pads)
    even = all(before == after for before, after in pads) and not any(lacking)
    pool, rank = AVERAGE[len(kernel)], len(kernel)
    if not any(amount for pair in pads for amount in pair) and not any(lacking):
        return pool(x, kernel, strides)
    counted = bool(call.get("count_include_pad", 0))
    if even and all(before <= width // 2 for (before, _), width in zip(pads, kernel, strict=True)):
        # torch wants the padding to be at most half of the window.
        return pool(x, kernel, strides, [before for before, _ in pads], count_include_pad=counted)
    ones = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype)
    ones = F.pad(ones, padding.flat(pads), value=1.0 if counted else 0.0)
    beyond = padding.flat([(0, more) for more in lacking])
    scale = math.prod(kernel)
    total = pool(F.pad(F.pad(x, padding.flat(pads)), beyond), kernel, strides) * scale
    return total / (pool(F.pad(ones, beyond), kernel, strides) * scale) if rank else total


def _everywhere(x: torch.Tensor) -> list[int]:
    return list(range(2, x.dim()))


OPERATORS: dict[str, Operator] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": lambda call: call.tensor(0).mean(_everywhere(call.tensor(0)), keepdim=True),
    "GlobalMaxPool": lambda call: call.tensor(0).amax(_everywhere(call.tensor(0)), keepdim=True),
}
