"""Norms and softmax, computed in float32: bfloat16 has 8 bits, too few for a mean or a sum of exponentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .dtypes import wide

Function = Callable[..., Any]


def softmax(x: Any, dim: int, *_: Any) -> Any:
    """exp(x) over its sum along an axis."""
    return jax.nn.softmax(wide(x), dim) if x.ndim else jnp.ones_like(wide(x))


def log_softmax(x: Any, dim: int, *_: Any) -> Any:
    """The logarithm of softmax."""
    return jax.nn.log_softmax(wide(x), dim) if x.ndim else jnp.zeros_like(wide(x))


def _normalised(x: Any, axes: Sequence[int], eps: float) -> tuple[Any, Any, Any]:
    """(x − mean) · 1/√(variance + eps), with the mean and the reciprocal root."""
    x = wide(x)
    mean = jnp.mean(x, axes, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axes, keepdims=True) + eps)
    return (x - mean) * scale, mean, scale


def _affine(x: Any, weight: Any, bias: Any, shape: Sequence[int]) -> Any:
    if weight is not None:
        x = x * jnp.reshape(wide(weight), shape)
    return x if bias is None else x + jnp.reshape(wide(bias), shape)


def native_layer_norm(x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> Any:
    """The norm over the last axes, of this shape, with mean and reciprocal root."""
    out, mean, scale = _normalised(x, range(x.ndim - len(shape), x.ndim), eps)
    return _affine(out, weight, bias, tuple(shape)), mean, scale


def layer_norm(
    x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    """The norm over the last axes."""
    return native_layer_norm(x, shape, weight, bias, eps)[0]


def group_norm(
    x: Any, weight: Any, bias: Any, batch: Any, channels: int, area: Any, groups: int, eps: float
) -> Any:
    """The norm over groups of channels of (batch, channels, ...), with mean and reciprocal root."""
    parts = jnp.reshape(x, (x.shape[0], groups, channels // groups, *x.shape[2:]))
    out, mean, scale = _normalised(parts, range(2, parts.ndim), eps)
    shape = (1, channels) + (1,) * (x.ndim - 2)
    flat = (x.shape[0], groups)
    return (
        _affine(jnp.reshape(out, x.shape), weight, bias, shape),
        jnp.reshape(mean, flat),
        jnp.reshape(scale, flat),
    )


def batch_norm(x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float) -> Any:
    """The norm by stored statistics of each channel (axis 1), alone."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = jax.lax.rsqrt(wide(variance) + eps)
    if weight is not None:
        scale = scale * wide(weight)
    out = (wide(x) - jnp.reshape(wide(mean), shape)) * jnp.reshape(scale, shape)
    out = out if bias is None else out + jnp.reshape(wide(bias), shape)
    return (out,)


def instance_norm(x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Any:
    """The norm of each channel by its own statistics over batch and area."""
    out, mean, scale = _normalised(x, (0, *range(2, x.ndim)), eps)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return _affine(out, weight, bias, shape), jnp.ravel(mean), jnp.ravel(scale)


OPERATORS: dict[str, Function] = {
    "aten.softmax.int": softmax,
    "aten._softmax.default": softmax,
    "aten.log_softmax.int": log_softmax,
    "aten._log_softmax.default": log_softmax,
    "aten.layer_norm.default": layer_norm,
    "aten.native_layer_norm.default": native_layer_norm,
    "aten.native_group_norm.default": group_norm,
    "aten._native_batch_norm_legit_no_training.default": batch_norm,
    "aten._native_batch_norm_legit.no_stats": instance_norm,
}
