"""Operators that look up, scatter and order elements by arrays of places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Function = Callable[..., Any]


def embedding(weight: Any, ids: Any, *_: Any) -> Any:
    """Rows of a table; an id beyond its end gives NaN, where torch raises."""
    return jnp.take(weight, ids, axis=0)


def index(x: Any, indices: Sequence[Any]) -> Any:
    """Elements at arrays of places, None standing for a whole axis."""
    return x[_places(indices)]


def _places(indices: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(slice(None) if place is None else place for place in indices)


def index_put(x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """The array with elements at arrays of places replaced, or added to; one boolean mask takes one value."""
    (first, *others) = indices
    if first is not None and first.dtype == bool and not others and not accumulate and values.size == 1:
        mask = jnp.reshape(first, first.shape + (1,) * (x.ndim - first.ndim))
        return jnp.where(mask, jnp.reshape(values, ()).astype(x.dtype), x)
    at, values = x.at[_places(indices)], values.astype(x.dtype)
    return at.add(values) if accumulate else at.set(values)


def gather(x: Any, dim: int, places: Any, *, sparse_grad: bool = False) -> Any:
    """x at `places` along one axis, and at their own place along the others."""
    if x.ndim == 0:
        return jnp.broadcast_to(x, places.shape)
    return x[_grid(dim % x.ndim, places)]


def _grid(dim: int, places: Any) -> tuple[Any, ...]:
    """Places along every axis, for places along one."""
    return tuple(
        places if axis == dim else jax.lax.broadcasted_iota(jnp.int32, places.shape, axis)
        for axis in range(places.ndim)
    )


def scatter(x: Any, dim: int, places: Any, source: Any, *, reduce: str | None = None) -> Any:
    """The array with x at `places` along an axis set to the source, or combined with it."""
    if x.ndim == 0:
        x, places = x[None], jnp.reshape(places, (1,))
        return scatter(x, 0, places, source, reduce=reduce)[0]
    if hasattr(source, "shape") and source.ndim:
        source = source[tuple(slice(0, size) for size in places.shape)]
    at = x.at[_grid(dim % x.ndim, places)]
    source = jnp.asarray(source, x.dtype)
    combine = {None: at.set, "add": at.add, "sum": at.add, "multiply": at.multiply, "prod": at.multiply}
    combine |= {"amax": at.max, "amin": at.min}
    if reduce not in combine:
        raise NotImplementedError(f"scatter by {reduce}")
    return combine[reduce](source)


def scatter_reduce(
    x: Any, dim: int, places: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """The array combined with the source at `places` along an axis."""
    if not include_self:
        raise NotImplementedError("scatter_reduce with include_self=False")
    return scatter(x, dim, places, source, reduce=reduce)


def sort(x: Any, dim: int = -1, descending: bool = False, *, stable: bool | None = True) -> Any:
    """The elements in order along an axis, and where they stood; equal ones keep their order."""
    if x.ndim == 0:
        return x, jnp.zeros((), jnp.int32)
    order = jnp.argsort(x, dim, stable=True, descending=descending)
    return jnp.take_along_axis(x, order, dim), order


def top_k(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """The k largest (or least) elements along an axis in order, and their places."""
    if x.ndim == 0:
        return x, jnp.zeros((), jnp.int32)
    order = jnp.argsort(x, dim, stable=True, descending=largest)
    order = jax.lax.slice_in_dim(order, 0, k, 1, dim % x.ndim)
    return jnp.take_along_axis(x, order, dim), order


def kth_value(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th least element along an axis, counted from 1, and its place."""
    if x.ndim == 0:
        return sort(x)
    found = (jax.lax.slice_in_dim(each, k - 1, k, 1, dim) for each in sort(x, dim))
    return tuple(each if keepdim else jnp.squeeze(each, dim) for each in found)


def median(x: Any, dim: int, keepdim: bool = False) -> Any:
    """The lower of the middle elements along an axis, and its place."""
    return kth_value(x, (x.shape[dim] + 1) // 2 if x.ndim else 1, dim, keepdim)


def windows(x: Any, dim: int, size: int, step: int) -> Any:
    """Every stretch of `size` elements along an axis, `step` apart, as a new last axis."""
    starts = jnp.arange(0, x.shape[dim] - size + 1, step)
    axis = dim % x.ndim
    return jnp.moveaxis(jnp.take(x, starts[:, None] + jnp.arange(size), axis), axis + 1, -1)


def search_sorted(
    boundaries: Any,
    x: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """`bucketize` with the boundaries first; rows of boundaries and other orders have no form."""
    if boundaries.ndim != 1 or sorter is not None:
        raise NotImplementedError("searchsorted in rows of boundaries")
    return bucketize(x, boundaries, right=right or side == "right")


def bucketize(x: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """How many boundaries lie before each element; with `right`, those equal to it as well."""
    return jnp.searchsorted(boundaries, x, side="right" if right else "left")


OPERATORS: dict[str, Function] = {
    "aten.embedding.default": embedding,
    "aten.index.Tensor": index,
    "aten.index_put.default": index_put,
    "aten._unsafe_index.Tensor": index,
    "aten.index_select.default": lambda x, dim, places: jnp.take(x, places, dim) if x.ndim else x,
    "aten.gather.default": gather,
    "aten.scatter.src": scatter,
    "aten.scatter.value": scatter,
    "aten.scatter_add.default": lambda x, dim, places, source: scatter(x, dim, places, source, reduce="add"),
    "aten.scatter_reduce.two": scatter_reduce,
    "aten.sort.default": sort,
    "aten.sort.stable": lambda x, *, stable=True, dim=-1, descending=False: sort(x, dim, descending),
    "aten.argsort.default": lambda x, dim=-1, descending=False: sort(x, dim, descending)[1],
    "aten.topk.default": top_k,
    "aten.kthvalue.default": kth_value,
    "aten.median.dim": median,
    "aten.unfold.default": windows,
    "aten.bucketize.Tensor": bucketize,
    "aten.searchsorted.Tensor": search_sorted,
}
