"""Pools over windows, and over everything."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .. import padding
from ..call import Call, Operator
from .convolution import FORWARD

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
    """Padding never wins; the places of the largest are those in the whole tensor."""
    x = call.tensor(0)
    kernel, strides, dilations, pads = _window(call, x)
    lacking = _ceiled(call, x, kernel, strides, dilations, pads)
    pads = [(before, after + more) for (before, after), more in zip(pads, lacking, strict=True)]
    padded = x
    if any(amount for pair in pads for amount in pair):
        least = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        padded = F.pad(x, padding.flat(pads), value=least)
    wide = padded if x.is_floating_point() else padded.to(torch.float64)
    pool = MAX[len(kernel)]
    if call.outputs == 1:
        return pool(wide, kernel, strides, 0, dilations).to(x.dtype)
    values, places = pool(wide, kernel, strides, 0, dilations, return_indices=True)
    return values.to(x.dtype), _places(call, places, x, list(wide.shape[2:]), [before for before, _ in pads])


def _places(
    call: Call, places: torch.Tensor, x: torch.Tensor, sizes: list[int], before: list[int]
) -> torch.Tensor:
    """Places in the padded planes as places in the whole of x, columns first with storage_order=1."""
    spots = []
    for size, shift in zip(reversed(sizes), reversed(before), strict=True):
        spots.append(places % size - shift)
        places = torch.div(places, size, rounding_mode="floor")
    own = list(zip(spots[::-1], x.shape[2:], strict=True))
    flat = torch.zeros_like(places)
    for spot, size in reversed(own) if call.get("storage_order", 0) else own:
        flat = flat * size + spot
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape([*x.shape[:2]] + [1] * (x.dim() - 2))
    return flat + planes * math.prod(x.shape[2:])


def max_unpool(call: Call) -> torch.Tensor:
    """Values back at the places where MaxPool found them, zeros elsewhere."""
    x, places = call.tensor(0), call.tensor(1)
    kernel = list(call.get("kernel_shape"))
    strides = list(call.get("strides") or [1] * len(kernel))
    pads = list(call.get("pads") or [0] * (2 * len(kernel)))
    own = [
        (size - 1) * stride + width - pads[axis] - pads[axis + len(kernel)]
        for axis, (size, stride, width) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    sizes = [*x.shape[:2], *own]
    wanted = call.ints(2) or sizes
    made = torch.zeros(math.prod(sizes), dtype=x.dtype)
    made = torch.scatter(made, 0, places.reshape(-1), x.reshape(-1)).reshape(sizes)
    return F.pad(made, padding.flat([(0, w - s) for w, s in zip(wanted, sizes, strict=True)]))


def average_pool(call: Call) -> torch.Tensor:
    """With or without the padding counted; what lies beyond it never counts."""
    return _average(call, call.tensor(0), bool(call.get("count_include_pad", 0)))


def _average(call: Call, x: torch.Tensor, counted: bool) -> torch.Tensor:
    kernel, strides, dilations, pads = _window(call, x)
    lacking = _ceiled(call, x, kernel, strides, dilations, pads)
    pool, plain = AVERAGE[len(kernel)], all(dilation == 1 for dilation in dilations) and not any(lacking)
    if plain and not any(amount for pair in pads for amount in pair):
        return pool(x, kernel, strides)
    even = all(before == after <= width // 2 for (before, after), width in zip(pads, kernel, strict=True))
    if plain and even:
        # torch wants the padding to be at most half of the window.
        return pool(x, kernel, strides, [before for before, _ in pads], count_include_pad=counted)
    beyond = padding.flat([(0, more) for more in lacking])
    ones = F.pad(torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype), padding.flat(pads), value=float(counted))
    windows = (kernel, strides, dilations)
    total = _sum(F.pad(F.pad(x, padding.flat(pads)), beyond), *windows)
    return total / _sum(F.pad(ones, beyond), *windows)


def _sum(x: torch.Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> torch.Tensor:
    """The sum of each window of each channel."""
    if all(dilation == 1 for dilation in dilations):
        return AVERAGE[len(kernel)](x, kernel, strides) * math.prod(kernel)
    weight = torch.ones([x.shape[1], 1, *kernel], dtype=x.dtype)
    return FORWARD[len(kernel)](x, weight, None, strides, 0, dilations, x.shape[1])


def lp_pool(call: Call) -> torch.Tensor:
    """The p-th root of the sum of |x|^p over each window."""
    p = call.get("p", 2)
    mean = _average(call, call.tensor(0).abs() ** p, counted=True)
    return (mean * math.prod(call.get("kernel_shape"))) ** (1 / p)


def global_lp_pool(call: Call) -> torch.Tensor:
    """The p-th root of the sum of |x|^p."""
    x, p = call.tensor(0), call.get("p", 2)
    return (x.abs() ** p).sum(_everywhere(x), keepdim=True) ** (1 / p)


def _everywhere(x: torch.Tensor) -> list[int]:
    return list(range(2, x.dim()))


OPERATORS: dict[str, Operator] = {
    "MaxPool": max_pool, "MaxUnpool": max_unpool, "AveragePool": average_pool, "LpPool": lp_pool,
    "GlobalLpPool": global_lp_pool,
    "GlobalAveragePool": lambda call: call.tensor(0).mean(_everywhere(call.tensor(0)), keepdim=True),
    "GlobalMaxPool": lambda call: call.tensor(0).amax(_everywhere(call.tensor(0)), keepdim=True),
}  # fmt: skip
