"""Operators of two arrays, or of an array and a number: arithmetic, comparisons, logic and selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Function = Callable[..., Any]


def _integers(*values: Any) -> bool:
    """Whether no operand is a float."""
    return all(jnp.issubdtype(jnp.result_type(value), jnp.integer) for value in values)


def add(x: Any, y: Any, alpha: Any = 1) -> Any:
    """x + alpha · y; of two booleans, either."""
    return jnp.add(x, y if alpha == 1 else y * alpha)


def subtract(x: Any, y: Any, alpha: Any = 1) -> Any:
    """x − alpha · y."""
    return jnp.subtract(x, y if alpha == 1 else y * alpha)


def divide(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    """x / y, a float; rounded down ("floor") or towards zero ("trunc") where asked, an integer of integers."""
    if rounding_mode is None:
        return jnp.true_divide(x, y)
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    if _integers(x, y):
        kind = jnp.result_type(x, y)
        return jax.lax.div(*jnp.broadcast_arrays(jnp.asarray(x, kind), jnp.asarray(y, kind)))
    return jnp.trunc(jnp.true_divide(x, y))


def power(x: Any, y: Any) -> Any:
    """x to the power of y; by multiplication where y is a small whole number."""
    if isinstance(y, float) and y.is_integer() and abs(y) <= 8:
        y = int(y)
    if isinstance(y, int) and not isinstance(y, bool) and y >= 0 and hasattr(x, "dtype"):
        return jax.lax.integer_pow(x, y)
    if isinstance(y, float) and y == 0.5:
        return jnp.sqrt(x)
    return jnp.power(*(v if isinstance(v, (int, float)) else _at_least_32(v) for v in (x, y)))


def _at_least_32(value: Any) -> Any:
    return value.astype(jnp.float32) if value.dtype == jnp.bfloat16 else value


def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    """x between two bounds, numbers or arrays; the upper one wins."""
    x = x if min is None else jnp.maximum(x, min)
    return x if max is None else jnp.minimum(x, max)


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, y elsewhere."""
    return jnp.where(condition.astype(bool), x, y)


def copy(x: Any, source: Any, *_: Any) -> Any:
    """The source in the shape of x."""
    return jnp.broadcast_to(source, x.shape)


def shift_left(x: Any, y: Any) -> Any:
    """x · 2^y of integers."""
    return jnp.left_shift(x, y)


BINARY: dict[str, Function] = {
    "add": add, "sub": subtract, "mul": jnp.multiply, "div": divide, "fmod": jnp.fmod, "remainder": jnp.remainder,
    "floor_divide": jnp.floor_divide, "rsub": lambda x, y, alpha=1: subtract(y, x, alpha),
    "eq": jnp.equal, "ne": jnp.not_equal, "lt": jnp.less, "le": jnp.less_equal, "gt": jnp.greater,
    "ge": jnp.greater_equal, "bitwise_and": jnp.bitwise_and, "bitwise_or": jnp.bitwise_or,
    "bitwise_xor": jnp.bitwise_xor, "bitwise_left_shift": shift_left, "bitwise_right_shift": jnp.right_shift,
    "__and__": jnp.bitwise_and, "__or__": jnp.bitwise_or, "__xor__": jnp.bitwise_xor,
}  # fmt: skip
"""By torch's name; each has overloads of an array and a number."""

OPERATORS: dict[str, Function] = {
    **{f"aten.{name}.{kind}": function for name, function in BINARY.items() for kind in ("Tensor", "Scalar")},
    "aten.div.Tensor_mode": divide,
    "aten.div.Scalar_mode": divide,
    "aten.floor_divide.default": jnp.floor_divide,
    "aten.bitwise_left_shift.Tensor_Scalar": shift_left,
    "aten.bitwise_right_shift.Tensor_Scalar": jnp.right_shift,
    "aten.remainder.Scalar_Tensor": jnp.remainder,
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Tensor_Tensor": power,
    "aten.pow.Scalar": power,
    "aten.atan2.default": jnp.arctan2,
    "aten.hypot.default": jnp.hypot,
    "aten.copysign.Tensor": jnp.copysign,
    "aten.maximum.default": jnp.maximum,
    "aten.minimum.default": jnp.minimum,
    "aten.logical_and.default": jnp.logical_and,
    "aten.logical_or.default": jnp.logical_or,
    "aten.logical_xor.default": jnp.logical_xor,
    "aten.clamp.default": clamp,
    "aten.clamp.Tensor": clamp,
    "aten.where.self": where,
    "aten.copy.default": copy,
    "aten.fill.Scalar": lambda x, value: jnp.full_like(x, value),
    "aten.fill.Tensor": copy,
}
