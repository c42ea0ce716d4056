"""Operators of one array, element by element: mathematics and activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .dtypes import wide

Function = Callable[..., Any]


def in_float32(function: Function) -> Function:
    """The function of one array, computed in float32: its result alone is rounded."""
    return lambda x, *rest, **options: function(wide(x), *rest, **options)


def gelu(x: Any, *, approximate: str = "none") -> Any:
    """x Φ(x), or its approximation by tanh."""
    return jax.nn.gelu(wide(x), approximate=approximate == "tanh")


def elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    """scale · x above zero, scale · alpha · (exp(input_scale · x) − 1) below."""
    x = wide(x)
    return jnp.where(x > 0, scale * x, scale * alpha * jnp.expm1(jnp.minimum(x, 0) * input_scale))


def leaky_relu(x: Any, slope: float = 0.01) -> Any:
    """x above zero, slope · x below."""
    return jnp.where(x > 0, x, x * slope)


def hardtanh(x: Any, low: float = -1.0, high: float = 1.0) -> Any:
    """x between two bounds."""
    return jnp.clip(x, low, high)


def rounded(x: Any, *, decimals: int = 0) -> Any:
    """The nearest integer, halves to the even one; or the nearest of so many decimals."""
    return jnp.round(x, decimals)


def same(x: Any, *_: Any) -> Any:
    """The array itself: copies and views are nothing to a functional program."""
    return x


EXACT: dict[str, Function] = {
    "abs": jnp.abs, "ceil": jnp.ceil, "floor": jnp.floor, "trunc": jnp.trunc, "neg": jnp.negative, "sign": jnp.sign,
    "relu": lambda x: jnp.maximum(x, 0), "isinf": jnp.isinf, "isnan": jnp.isnan, "logical_not": jnp.logical_not,
    "bitwise_not": jnp.bitwise_not, "hardtanh": hardtanh, "leaky_relu": leaky_relu, "round": rounded, "clone": same,
    "alias": same, "detach": same, "contiguous": same, "lift_fresh_copy": same, "_to_copy": same, "relu6": lambda x:
    jnp.clip(x, 0, 6),
}  # fmt: skip
"""Operators that round nothing, or that take every float as it is."""

ROUNDING: dict[str, Function] = {
    "acos": jnp.arccos, "acosh": jnp.arccosh, "asin": jnp.arcsin, "asinh": jnp.arcsinh, "atan": jnp.arctan,
    "atanh": jnp.arctanh, "cos": jnp.cos, "cosh": jnp.cosh, "erf": lambda x: jax.lax.erf(_real(x)),
    "erfc": lambda x: jax.lax.erfc(_real(x)), "erfinv": lambda x: jax.lax.erf_inv(_real(x)), "exp": jnp.exp,
    "exp2": jnp.exp2, "expm1": jnp.expm1, "log": jnp.log, "log10": jnp.log10, "log1p": jnp.log1p, "log2": jnp.log2,
    "reciprocal": lambda x: 1.0 / _real(x), "rsqrt": lambda x: jax.lax.rsqrt(_real(x)), "sigmoid": lambda x:
    jax.nn.sigmoid(_real(x)), "silu": lambda x: jax.nn.silu(_real(x)), "sin": jnp.sin, "sinh": jnp.sinh,
    "sqrt": jnp.sqrt, "tan": jnp.tan, "tanh": jnp.tanh,
}  # fmt: skip
"""Operators that are computed in float32."""


def _real(x: Any) -> Any:
    """An integer array as float32, as torch takes it in functions of real numbers."""
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)


OPERATORS: dict[str, Function] = {
    **{f"aten.{name}.default": function for name, function in EXACT.items()},
    **{f"aten.{name}.default": in_float32(function) for name, function in ROUNDING.items()},
    "aten.gelu.default": gelu,
    "aten.elu.default": elu,
    "aten.round.decimals": rounded,
}
