"""Pooling over windows, and over as many cells as are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .dtypes import wide

Function = Callable[..., Any]


def _each(values: Sequence[int], rank: int) -> list[int]:
    return [int(value) for value in (list(values) * rank if len(values) == 1 else values)]


def _beyond(size: Any, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> int:
    """Places behind the padding that the last window reaches, where sizes round up."""
    if not ceil_mode:
        return 0
    span = size + 2 * pad - dilation * (kernel - 1) - 1
    count = -(-span // stride) + 1
    if (count - 1) * stride >= size + pad:  # a window must begin inside the array or its left margin
        count -= 1
    return int(max(0, (count - 1) * stride + dilation * (kernel - 1) + 1 - (size + 2 * pad)))


def _windows(
    x: Any, first: Any, combine: Any, kernel: Sequence[int], stride: Sequence[int],
    pads: Sequence[tuple[int, int]], dilation: Sequence[int] = (),
) -> Any:  # fmt: skip
    lead = x.ndim - len(kernel)
    return jax.lax.reduce_window(
        x,
        jnp.asarray(first, x.dtype),
        combine,
        (1,) * lead + tuple(kernel),
        (1,) * lead + tuple(stride),
        [(0, 0)] * lead + list(pads),
        window_dilation=(1,) * lead + tuple(dilation or [1] * len(kernel)),
    )


def max_pool(rank: int) -> Function:
    """The largest element of each window over the last `rank` axes, alone: nothing reads where it stood."""

    def pool(
        x: Any, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,), ceil_mode: bool = False,
    ) -> Any:  # fmt: skip
        sizes, pad, rate = (_each(values, rank) for values in (kernel, padding, dilation))
        step = _each(stride, rank) if stride else sizes
        rows = zip(x.shape[-rank:], sizes, step, pad, rate, strict=True)
        margins = [(row[3], row[3] + _beyond(*row, ceil_mode)) for row in rows]
        lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
        return (_windows(x, lowest, jax.lax.max, sizes, step, margins, rate),)

    return pool


def avg_pool(rank: int) -> Function:
    """The mean of each window over the last `rank` axes."""

    def pool(
        x: Any, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,),
        ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Any:  # fmt: skip
        sizes, pad = _each(kernel, rank), _each(padding, rank)
        step = _each(stride, rank) if stride else sizes
        rows = list(zip(x.shape[-rank:], sizes, step, pad, strict=True))
        more = [_beyond(*row, 1, ceil_mode) for row in rows]
        margins = [(p, p + extra) for p, extra in zip(pad, more, strict=True)]
        sums = _windows(wide(x), 0, jax.lax.add, sizes, step, margins)
        if divisor_override:
            return sums / divisor_override
        if not any(more) and (count_include_pad or not any(pad)):
            return sums / math.prod(sizes)
        ones = jnp.ones(x.shape[-rank:], jnp.float32)
        if count_include_pad:
            ones = jnp.pad(ones, [(p, p) for p in pad], constant_values=1)
            margins = [(0, extra) for extra in more]
        return sums / _windows(ones, 0, jax.lax.add, sizes, step, margins)

    return pool


def adaptive_avg_pool(rank: int) -> Function:
    """The mean of so many cells along each of the last `rank` axes: cell i of n is [⌊iL/n⌋, ⌈(i+1)L/n⌉)."""

    def pool(x: Any, size: Sequence[int]) -> Any:
        out = wide(x)
        for axis, count in enumerate(_each(size, rank), x.ndim - rank):
            length = x.shape[axis]
            if count == 1:
                out = jnp.mean(out, axis, keepdims=True)
            elif count != length:
                shares = jnp.asarray(_cells(length, count))
                out = jnp.tensordot(out, shares, ((axis,), (1,)), precision=jax.lax.Precision.HIGHEST)
                out = jnp.moveaxis(out, -1, axis)
        return out

    return pool


def adaptive_max_pool(x: Any, size: Sequence[int]) -> Any:
    """The largest element of so many cells along each of the last axes, alone."""
    for axis, count in enumerate(size, x.ndim - len(size)):
        length = x.shape[axis]
        cells = [
            jax.lax.slice_in_dim(x, cell * length // count, -(-(cell + 1) * length // count), 1, axis)
            for cell in range(count)
        ]
        x = jnp.concatenate([jnp.max(cell, axis, keepdims=True) for cell in cells], axis)
    return (x,)


def _cells(length: int, count: int) -> np.ndarray[Any, Any]:
    """Row i holds the share that each place has in cell i."""
    shares = np.zeros((count, length), np.float32)
    for cell in range(count):
        low, high = cell * length // count, -(-(cell + 1) * length // count)
        shares[cell, low:high] = 1 / (high - low)
    return shares


OPERATORS: dict[str, Function] = {
    **{f"aten.max_pool{n}d_with_indices.default": max_pool(n) for n in (1, 2, 3)},
    **{f"aten.avg_pool{n}d.default": avg_pool(n) for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d.default": adaptive_avg_pool(n) for n in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{n}d.default": adaptive_max_pool for n in (1, 2, 3)},
    "aten._adaptive_avg_pool2d.default": adaptive_avg_pool(2),
    "aten._adaptive_avg_pool3d.default": adaptive_avg_pool(3),
}
