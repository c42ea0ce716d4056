"""Operators that move elements and compute nothing: views, slices, joins, repetition and padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import core

Function = Callable[..., Any]
Size = Any
"""An axis's length: an integer, or JAX's symbolic dimension where the program leaves it free."""


def expand(x: Any, size: Sequence[Size], implicit: bool = False) -> Any:
    """The array repeated along axes of length 1, and along new leading ones; −1 keeps a length."""
    lead = len(size) - x.ndim
    own = (*size[:lead], *x.shape)
    shape = [
        have if isinstance(want, int) and want == -1 else want for have, want in zip(own, size, strict=True)
    ]
    return jnp.broadcast_to(x, shape)


def squeeze(x: Any, dim: int | Sequence[int] | None = None) -> Any:
    """The array without those of the axes that have length 1."""
    named = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    axes = {axis % max(x.ndim, 1) for axis in named} if x.ndim else set()
    return jnp.squeeze(x, tuple(a for a in sorted(axes) if isinstance(x.shape[a], int) and x.shape[a] == 1))


def bounds(size: Size, start: Size | None, end: Size | None) -> tuple[Size, Size]:
    """A slice's bounds inside an axis: negative ones count from its end, later ones end at it."""
    low = 0 if start is None else start
    low = low + size if isinstance(low, int) and low < 0 else low
    high = size if end is None or (isinstance(end, int) and end >= 2**31 - 1) else end
    high = high + size if isinstance(high, int) and high < 0 else high
    if isinstance(size, int) and not isinstance(high, int):
        return low, high  # torch has a guard that it is not beyond
    low = core.max_dim(core.min_dim(low, size), 0) if isinstance(low, int) else low
    high = core.min_dim(high, size) if isinstance(high, int) else high
    return low, (max(low, high) if isinstance(low, int) and isinstance(high, int) else high)


def slice_of(x: Any, dim: int = 0, start: Size | None = None, end: Size | None = None, step: int = 1) -> Any:
    """Elements from `start` to before `end` along an axis."""
    low, high = bounds(x.shape[dim], start, end)
    return jax.lax.slice_in_dim(x, low, high, step, dim)


def select(x: Any, dim: int, index: Size) -> Any:
    """One place along an axis, which vanishes."""
    if isinstance(index, int) and index < 0:
        index = index + x.shape[dim]
    return jnp.squeeze(jax.lax.slice_in_dim(x, index, index + 1, 1, dim), dim)


def split_with_sizes(x: Any, sizes: Sequence[Size], dim: int = 0) -> tuple[Any, ...]:
    """Pieces of these lengths along an axis."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(jax.lax.slice_in_dim(x, start, start + size, 1, dim))
        start = start + size
    return tuple(pieces)


def split(x: Any, size: int, dim: int = 0) -> tuple[Any, ...]:
    """Pieces of one length along an axis; the last may be shorter."""
    length = x.shape[dim]
    return tuple(slice_of(x, dim, start, min(start + size, length)) for start in range(0, length, size))


def unbind(x: Any, dim: int = 0) -> tuple[Any, ...]:
    """Every place along an axis as an array of its own."""
    return tuple(select(x, dim, index) for index in range(x.shape[dim]))


def cat(arrays: Sequence[Any], dim: int = 0) -> Any:
    """Arrays one behind the other; torch lets an empty one of rank 1 stand among them."""
    kept = [x for x in arrays if x.shape != (0,)] or list(arrays[:1])
    return jnp.concatenate(kept, dim)


def repeat(x: Any, times: Sequence[Size]) -> Any:
    """The whole array so many times along each axis, new leading ones included."""
    x = jnp.reshape(x, (1,) * (len(times) - x.ndim) + x.shape)
    doubled = [size for pair in zip(times, x.shape, strict=True) for size in pair]
    spread = jnp.broadcast_to(jnp.expand_dims(x, range(0, 2 * x.ndim, 2)), doubled)
    return jnp.reshape(spread, [many * size for many, size in zip(times, x.shape, strict=True)])


def _pairs(rank: int, pad: Sequence[int]) -> list[tuple[int, int]]:
    """Padding before and behind by axis; torch lists the last axis first."""
    pairs = [(int(low), int(high)) for low, high in zip(pad[::2], pad[1::2], strict=True)][::-1]
    return [(0, 0)] * (rank - len(pairs)) + pairs


def constant_pad(x: Any, pad: Sequence[int], value: Any = 0) -> Any:
    """The array with a margin of one value; a negative margin cuts."""
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), [(*pair, 0) for pair in _pairs(x.ndim, pad)])


def reflection_pad(x: Any, pad: Sequence[int]) -> Any:
    """The array with a margin that mirrors it, its border not repeated."""
    return jnp.pad(x, _pairs(x.ndim, pad), mode="reflect")


def replication_pad(x: Any, pad: Sequence[int]) -> Any:
    """The array with a margin that repeats its border."""
    return jnp.pad(x, _pairs(x.ndim, pad), mode="edge")


def slice_scatter(
    x: Any, source: Any, dim: int = 0, start: Size | None = None, end: Size | None = None, step: int = 1
) -> Any:
    """The array with a slice replaced."""
    low, high = bounds(x.shape[dim], start, end)
    index = (slice(None),) * (dim % x.ndim) + (slice(low, high, step),)
    return x.at[index].set(source.astype(x.dtype))


def select_scatter(x: Any, source: Any, dim: int, index: int) -> Any:
    """The array with one place along an axis replaced."""
    return x.at[(slice(None),) * (dim % x.ndim) + (index,)].set(source.astype(x.dtype))


def triangle(function: Function) -> Function:
    """The lower or upper triangle of the last two axes, zeros elsewhere."""
    return lambda x, diagonal=0: function(x, diagonal)


OPERATORS: dict[str, Function] = {
    "aten.view.default": jnp.reshape,
    "aten.reshape.default": jnp.reshape,
    "aten._unsafe_view.default": jnp.reshape,
    "aten.permute.default": jnp.transpose,
    "aten.transpose.int": jnp.swapaxes,
    "aten.t.default": jnp.transpose,
    "aten.expand.default": expand,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.unsqueeze.default": jnp.expand_dims,
    "aten.slice.Tensor": slice_of,
    "aten.select.int": select,
    "aten.split_with_sizes.default": split_with_sizes,
    "aten.split.Tensor": split,
    "aten.unbind.int": unbind,
    "aten.cat.default": cat,
    "aten.stack.default": lambda arrays, dim=0: jnp.stack(arrays, dim),
    "aten.repeat.default": repeat,
    "aten.flip.default": jnp.flip,
    "aten.roll.default": lambda x, shifts, dims=(): jnp.roll(x, tuple(shifts), tuple(dims) or None),
    "aten.diagonal.default": lambda x, offset=0, dim1=0, dim2=1: jnp.diagonal(x, offset, dim1, dim2),
    "aten.constant_pad_nd.default": constant_pad,
    **{f"aten.reflection_pad{n}d.default": reflection_pad for n in (1, 2, 3)},
    **{f"aten.replication_pad{n}d.default": replication_pad for n in (1, 2, 3)},
    "aten.slice_scatter.default": slice_scatter,
    "aten.select_scatter.default": select_scatter,
    "aten.tril.default": triangle(jnp.tril),
    "aten.triu.default": triangle(jnp.triu),
}
