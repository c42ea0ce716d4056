"""Operators that make arrays from numbers and sizes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

Function = Callable[..., Any]


def arange(start: Any, end: Any, step: Any = 1) -> Any:
    """start, start + step... up to before `end`."""
    if any(isinstance(value, float) for value in (start, end, step)):
        count = max(0, math.ceil((end - start) / step))
        return start + step * jnp.arange(count, dtype=jnp.float32)
    return jnp.arange(start, end, step)


def full(size: Sequence[Any], value: Any) -> Any:
    """One value in every place."""
    return jnp.full(tuple(size), value)


OPERATORS: dict[str, Function] = {
    "aten.arange.start_step": arange,
    "aten.full.default": full,
    "aten.full_like.default": jnp.full_like,
    "aten.zeros_like.default": jnp.zeros_like,
    "aten.ones_like.default": jnp.ones_like,
    "aten.empty.memory_format": lambda size: full(size, 0),
    "aten.scalar_tensor.default": jnp.asarray,
    "aten.eye.default": jnp.eye,
    "aten.eye.m": jnp.eye,
}
