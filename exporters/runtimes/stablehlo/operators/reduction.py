"""Operators that reduce axes: sums, means, extremes and their places, running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .dtypes import wide

Function = Callable[..., Any]
Axes = int | Sequence[int] | None


def axes_of(dim: Axes) -> int | tuple[int, ...] | None:
    """Axes as NumPy names them: torch's empty list stands for all."""
    if dim is None or isinstance(dim, int):
        return dim
    return tuple(dim) or None


def total(x: Any, dim: Axes = None, keepdim: bool = False) -> Any:
    """The sum over axes; of booleans, how many."""
    return jnp.sum(wide(x), axes_of(dim), keepdims=keepdim)


def mean(x: Any, dim: Axes = None, keepdim: bool = False) -> Any:
    """The mean over axes."""
    return jnp.mean(wide(x), axes_of(dim), keepdims=keepdim)


def variance(x: Any, dim: Axes = None, *, correction: float | None = 1, keepdim: bool = False) -> Any:
    """The mean squared distance to the mean, with n − correction in the denominator."""
    less = 1 if correction is None else int(correction)
    if correction is not None and less != correction:
        raise NotImplementedError(f"a correction of {correction}")
    return jnp.var(wide(x), axes_of(dim), ddof=less, keepdims=keepdim)


def variance_unbiased(x: Any, dim: Axes = None, unbiased: bool = True, keepdim: bool = False) -> Any:
    """The variance in the older overload's words."""
    return variance(x, dim, correction=int(unbiased), keepdim=keepdim)


def variance_and_mean(
    x: Any, dim: Axes = None, *, correction: float | None = 1, keepdim: bool = False
) -> Any:
    """Both at once."""
    return variance(x, dim, correction=correction, keepdim=keepdim), mean(x, dim, keepdim)


def largest(x: Any, dim: Axes = None, keepdim: bool = False) -> Any:
    """The largest element over axes."""
    return jnp.max(x, axes_of(dim), keepdims=keepdim)


def least(x: Any, dim: Axes = None, keepdim: bool = False) -> Any:
    """The least element over axes."""
    return jnp.min(x, axes_of(dim), keepdims=keepdim)


def largest_at(x: Any, dim: int, keepdim: bool = False) -> Any:
    """The largest element along an axis, and its place."""
    return largest(x, dim, keepdim), argmax(x, dim, keepdim)


def least_at(x: Any, dim: int, keepdim: bool = False) -> Any:
    """The least element along an axis, and its place."""
    return least(x, dim, keepdim), argmin(x, dim, keepdim)


def argmax(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The place of the largest element along an axis, or in the flattened array."""
    return jnp.argmax(x, dim, keepdims=keepdim)


def argmin(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The place of the least element along an axis, or in the flattened array."""
    return jnp.argmin(x, dim, keepdims=keepdim)


def holds_any(x: Any, dim: Axes = None, keepdim: bool = False) -> Any:
    """Whether any element is not zero."""
    return jnp.any(x != 0, axes_of(dim), keepdims=keepdim)


def holds_all(x: Any, dim: Axes = None, keepdim: bool = False) -> Any:
    """Whether no element is zero."""
    return jnp.all(x != 0, axes_of(dim), keepdims=keepdim)


def product(x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The product along an axis, or of all elements."""
    return jnp.prod(wide(x), dim, keepdims=keepdim)


def running_sum(x: Any, dim: int) -> Any:
    """The sum of all elements up to each, along an axis."""
    return jnp.cumsum(wide(x), dim) if x.ndim else wide(x)


def running_product(x: Any, dim: int) -> Any:
    """The product of all elements up to each, along an axis."""
    return jnp.cumprod(wide(x), dim) if x.ndim else wide(x)


def running_largest(x: Any, dim: int) -> Any:
    """The largest element up to each, alone: nothing reads where it stood."""
    return (jax.lax.cummax(x, dim % x.ndim) if x.ndim else x,)


def vector_norm(x: Any, ord: float = 2, dim: Axes = None, keepdim: bool = False) -> Any:
    """(Σ |x|^ord)^(1/ord) over axes; the largest or least magnitude for ±inf, the count of non-zeros for 0."""
    size, axes = jnp.abs(wide(x)), axes_of(dim)
    if ord == float("inf"):
        return jnp.max(size, axes, keepdims=keepdim)
    if ord == float("-inf"):
        return jnp.min(size, axes, keepdims=keepdim)
    if ord == 0:
        return jnp.sum(size != 0, axes, keepdims=keepdim).astype(jnp.float32)
    if ord == 2:
        return jnp.sqrt(jnp.sum(size * size, axes, keepdims=keepdim))
    return jnp.power(jnp.sum(jnp.power(size, ord), axes, keepdims=keepdim), 1 / ord)


OPERATORS: dict[str, Function] = {
    "aten.sum.default": total,
    "aten.sum.dim_IntList": total,
    "aten.mean.default": mean,
    "aten.mean.dim": mean,
    "aten.var.correction": variance,
    "aten.var.dim": variance_unbiased,
    "aten.var_mean.correction": variance_and_mean,
    "aten.amax.default": largest,
    "aten.amin.default": least,
    "aten.max.default": largest,
    "aten.min.default": least,
    "aten.max.dim": largest_at,
    "aten.min.dim": least_at,
    "aten.argmax.default": argmax,
    "aten.argmin.default": argmin,
    **{f"aten.any.{kind}": holds_any for kind in ("default", "dim", "dims")},
    **{f"aten.all.{kind}": holds_all for kind in ("default", "dim", "dims")},
    "aten.prod.default": product,
    "aten.prod.dim_int": product,
    "aten.cumsum.default": running_sum,
    "aten.cumprod.default": running_product,
    "aten.cummax.default": running_largest,
    "aten.linalg_vector_norm.default": vector_norm,
}
