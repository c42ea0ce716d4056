"""Images in other sizes, by nearest places or bilinearly, and sampled at a grid of places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .dtypes import wide

Function = Callable[..., Any]
Sizes = Sequence[int] | None
Factors = Sequence[float] | None


def _sizes(x: Any, sizes: Sizes, factors: Factors) -> list[tuple[int, int, float | None]]:
    """Length before, length after and factor of each axis behind the channels."""
    own = [int(size) for size in x.shape[2:]]
    if sizes is not None:
        return [(have, int(want), None) for have, want in zip(own, sizes, strict=True)]
    return [(have, int(have * by), by) for have, by in zip(own, factors or (), strict=True)]


def bilinear(x: Any, sizes: Sizes, align_corners: bool, factors: Factors = None) -> Any:
    """Each axis of (batch, channels, height, width) by straight lines between its places."""
    out = wide(x)
    for axis, (have, want, by) in enumerate(_sizes(x, sizes, factors), 2):
        at = _corners(have, want) if align_corners else _centres(have, want, by)
        low = np.minimum(at.astype(np.int32), have - 1)
        high = np.minimum(low + 1, have - 1)
        shape = (-1,) + (1,) * (x.ndim - axis - 1)
        share = jnp.asarray((at - low).astype(np.float32).reshape(shape))
        before, behind = (jnp.take(out, jnp.asarray(places), axis) for places in (low, high))
        out = before * (1 - share) + behind * share
    return out


def _corners(have: int, want: int) -> np.ndarray[Any, Any]:
    return np.arange(want, dtype=np.float32) * np.float32((have - 1) / (want - 1) if want > 1 else 0)


def _centres(have: int, want: int, by: float | None) -> np.ndarray[Any, Any]:
    scale = np.float32(1 / by if by else have / want)
    places: np.ndarray[Any, Any] = (np.arange(want, dtype=np.float32) + np.float32(0.5)) * scale
    return np.maximum(places - np.float32(0.5), np.float32(0))


def nearest(x: Any, sizes: Sizes, factors: Factors = None) -> Any:
    """Each axis by the place at or before."""
    out = x
    for axis, (have, want, by) in enumerate(_sizes(x, sizes, factors), 2):
        scale = np.float32(1 / by if by else have / want)
        places = np.minimum((np.arange(want, dtype=np.float32) * scale).astype(np.int32), have - 1)
        out = jnp.take(out, jnp.asarray(places), axis)
    return out


def grid_sample(x: Any, grid: Any, mode: int = 0, padding: int = 0, align_corners: bool = False) -> Any:
    """x at the places of a grid (batch, height, width, 2) of −1..1, bilinearly or the nearest.

    Beyond the image are zeros (padding 0) or its border (1).
    """
    if mode > 1 or padding > 1:
        raise NotImplementedError("grid_sample by cubics or with reflection")
    x, grid = wide(x), wide(grid)
    height, width = x.shape[2:]
    column, row = (_unscaled(grid[..., n], size, align_corners) for n, size in enumerate((width, height)))
    if padding == 1:
        column, row = jnp.clip(column, 0, width - 1), jnp.clip(row, 0, height - 1)
    if mode == 1:
        return _at(x, jnp.round(row), jnp.round(column))
    top, left = jnp.floor(row), jnp.floor(column)
    down, right = (row - top)[:, None], (column - left)[:, None]
    return (
        _at(x, top, left) * (1 - down) * (1 - right)
        + _at(x, top, left + 1) * (1 - down) * right
        + _at(x, top + 1, left) * down * (1 - right)
        + _at(x, top + 1, left + 1) * down * right
    )


def _unscaled(at: Any, size: int, align_corners: bool) -> Any:
    return (at + 1) / 2 * (size - 1) if align_corners else ((at + 1) * size - 1) / 2


def _at(x: Any, row: Any, column: Any) -> Any:
    """x (batch, channels, height, width) at places (batch, ...), zero beyond it."""
    height, width = x.shape[2:]
    inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
    rows, columns = (
        jnp.clip(place, 0, size - 1).astype(jnp.int32) for place, size in ((row, height), (column, width))
    )
    batch = jnp.reshape(jnp.arange(x.shape[0]), (-1, 1, 1))
    found = jnp.moveaxis(x[batch, :, rows, columns], -1, 1)
    return jnp.where(inside[:, None], found, 0.0)


OPERATORS: dict[str, Function] = {
    "aten.upsample_bilinear2d.vec": bilinear,
    "aten.upsample_nearest2d.vec": nearest,
    "aten.grid_sampler_2d.default": grid_sample,
}
