"""Matrix products, convolutions and attention: float32 operands are multiplied in full, sums are float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .dtypes import is_float, wide

Function = Callable[..., Any]


def _how(x: Any, y: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Both operands in one dtype, and how to multiply them.

    A TPU multiplies float32 in one pass of bfloat16 unless told otherwise: HIGHEST stands in the program for
    float32 operands. Products of bfloat16 are exact in float32, where the sums are kept.
    """
    kind = jnp.promote_types(x.dtype, y.dtype)
    precision = jax.lax.Precision.HIGHEST if kind == jnp.float32 else jax.lax.Precision.DEFAULT
    into = jnp.float32 if jnp.issubdtype(kind, jnp.floating) else kind
    return x.astype(kind), y.astype(kind), {"precision": precision, "preferred_element_type": into}


def matmul(x: Any, y: Any) -> Any:
    """The product of two matrices, or of stacks of them, or of vectors."""
    x, y, how = _how(x, y)
    return jnp.matmul(x, y, **how)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x · weight^T + bias, for a weight of (out, in)."""
    x, weight, how = _how(x, weight)
    out = jax.lax.dot_general(x, weight, (((x.ndim - 1,), (weight.ndim - 1,)), ((), ())), **how)
    return out if bias is None else out + wide(bias)


def addmm(start: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta · start + alpha · x · y."""
    out = matmul(x, y)
    return wide(start) * beta + (out if alpha == 1 else out * alpha)


def _each(values: Sequence[int], rank: int) -> list[int]:
    """One value an axis, for torch's single value for all."""
    return list(values) * rank if len(values) == 1 else list(values)


def convolution(
    x: Any, weight: Any, bias: Any, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    transposed: bool, output_padding: Sequence[int], groups: int,
) -> Any:  # fmt: skip
    """A convolution over 1 to 3 axes of (batch, channels, ...), or its transpose."""
    rank = weight.ndim - 2
    if x.ndim == rank + 1:
        return convolution(
            x[None], weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )[0]
    stride, padding, dilation = (_each(values, rank) for values in (stride, padding, dilation))
    pads, ahead, behind = [(pad, pad) for pad in padding], stride, [1] * rank
    if transposed:
        weight, ahead, behind = _turned(weight, groups), [1] * rank, stride
        reach = [rate * (size - 1) for rate, size in zip(dilation, weight.shape[2:], strict=True)]
        extra = _each(output_padding, rank)
        pads = [(r - p, r - p + e) for r, p, e in zip(reach, padding, extra, strict=True)]
    x, weight, how = _how(x, weight)
    out = jax.lax.conv_general_dilated(
        x, weight, ahead, pads, behind, dilation, feature_group_count=groups, **how
    )
    return out if bias is None else out + jnp.reshape(wide(bias), (1, -1) + (1,) * rank)


def _turned(weight: Any, groups: int) -> Any:
    """A transposed convolution's weight (in, out / groups, ...) as that of a convolution, mirrored."""
    shape = weight.shape
    split = jnp.reshape(weight, (groups, shape[0] // groups, *shape[1:]))
    turned = jnp.reshape(jnp.swapaxes(split, 1, 2), (groups * shape[1], shape[0] // groups, *shape[2:]))
    return jnp.flip(turned, range(2, weight.ndim))


def attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    *, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(query · key^T · scale + mask) · value; a row that is masked as a whole gives zeros."""
    if enable_gqa:
        key, value = (jnp.repeat(each, query.shape[-3] // each.shape[-3], axis=-3) for each in (key, value))
    scores = matmul(query, jnp.swapaxes(key, -1, -2))
    scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - n) for n in (2, 1))
        scores = jnp.where(columns <= rows, scores, -jnp.inf)
    if attn_mask is not None:
        scores = scores + attn_mask if is_float(attn_mask) else jnp.where(attn_mask, scores, -jnp.inf)
    shares = jax.nn.softmax(scores, axis=-1)
    masked = jnp.all(jnp.isneginf(scores), axis=-1, keepdims=True)
    return matmul(jnp.where(masked, 0.0, shares).astype(value.dtype), value)


def distances(x: Any, y: Any, p: float, compute_mode: int | None = None) -> Any:
    """The p-norm of the difference of every row of x and every row of y."""
    apart = jnp.abs(wide(x)[..., :, None, :] - wide(y)[..., None, :, :])
    if p == 2:
        return jnp.sqrt(jnp.sum(apart * apart, -1))
    if p == float("inf"):
        return jnp.max(apart, -1)
    return jnp.sum(apart != 0, -1) if p == 0 else jnp.power(jnp.sum(jnp.power(apart, p), -1), 1 / p)


OPERATORS: dict[str, Function] = {
    "aten.linear.default": linear,
    **{f"aten.{name}.default": matmul for name in ("matmul", "mm", "bmm", "mv", "dot")},
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": addmm,
    "aten.convolution.default": convolution,
    "aten.scaled_dot_product_attention.default": attention,
    "aten._cdist_forward.default": distances,
}
