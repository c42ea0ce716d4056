"""The dtypes that a program computes in: float32 or bfloat16 for every float of torch, 32 bits for its integers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = {
    torch.int64: jnp.int32,
    torch.int32: jnp.int32,
    torch.int16: jnp.int16,
    torch.int8: jnp.int8,
    torch.uint8: jnp.uint8,
    torch.bool: jnp.bool_,
}
"""A TPU has no 64-bit integers, and JAX none unless told to: ids and positions fit 32 bits."""

LARGEST = float(jnp.finfo(jnp.bfloat16).max)
"""The largest bfloat16: what masks of float32's least value become, since infinity times zero is no number."""


def is_float(value: Any) -> bool:
    """Whether a value is an array of floats."""
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def is_narrow(value: Any) -> bool:
    """Whether a value is an array of bfloat16."""
    return hasattr(value, "dtype") and value.dtype == jnp.bfloat16


def wide(value: Any) -> Any:
    """A float array in float32, any other value as it is: for statistics, sums and exponentials."""
    return value.astype(jnp.float32) if is_float(value) else value


def saturated(value: Any) -> Any:
    """A float32 array in bfloat16, finite values staying finite and infinities infinite."""
    held = jnp.where(jnp.isinf(value), value, jnp.clip(value, -LARGEST, LARGEST))
    return held.astype(jnp.bfloat16)
