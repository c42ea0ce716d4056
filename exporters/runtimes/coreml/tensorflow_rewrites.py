"""TensorFlow operators that Core ML's converter lacks or gets wrong, written with operators that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....targets.errors import Unsupported
from .tensorflow_functions import known

SIGN = -(2**31)
"""The sign bit of a float32, as an int32."""


def erfc(node: Any, x: Any) -> Any:
    """1 - erf(x): Keras's exact GELU is x / 2 * erfc(-x / sqrt 2)."""
    import tensorflow as tf

    return 1.0 - tf.math.erf(x)


def expm1(node: Any, x: Any) -> Any:
    """exp(x) - 1, as CELU asks for."""
    import tensorflow as tf

    return tf.exp(x) - 1.0


def reciprocal(node: Any, x: Any) -> Any:
    """1 / x: coremltools writes 1 / (x + 0.0001), which Core ML's `inverse` is by default."""
    return 1.0 / x


def div_no_nan(node: Any, x: Any, y: Any) -> Any:
    """x / y, and 0 where y is 0, for which coremltools writes what gives infinity."""
    import tensorflow as tf

    nothing = tf.raw_ops.Equal(x=y, y=tf.zeros((), y.dtype))
    return select(node, nothing, tf.zeros((), x.dtype), x / select(node, nothing, tf.ones((), y.dtype), y))


def select(node: Any, condition: Any, x: Any, y: Any) -> Any:
    """All three at one shape: coremltools gives the result that of `x`, also where that is a single number."""
    import tensorflow as tf

    shape = tf.broadcast_static_shape(tf.broadcast_static_shape(condition.shape, x.shape), y.shape)
    if shape.is_fully_defined():
        condition, x, y = (
            each if each.shape == shape else tf.broadcast_to(each, shape) for each in (condition, x, y)
        )
    return tf.raw_ops.SelectV2(condition=condition, t=x, e=y)


def is_nan(node: Any, x: Any) -> Any:
    """What is not equal to itself."""
    import tensorflow as tf

    return tf.raw_ops.NotEqual(x=x, y=x)


def is_inf(node: Any, x: Any) -> Any:
    """What is as large as infinity."""
    import tensorflow as tf

    return tf.raw_ops.Equal(x=tf.abs(x), y=tf.constant(float("inf"), x.dtype))


def bucketize(node: Any, x: Any) -> Any:
    """The number of boundaries at or below each value, as Discretization asks for."""
    import tensorflow as tf

    boundaries = list(node.attr["boundaries"].list.f)
    reached = tf.cast(tf.expand_dims(tf.cast(x, tf.float32), -1) >= tf.constant(boundaries), tf.int32)
    return tf.reduce_sum(reached, axis=-1)


def floor_div(node: Any, x: Any, y: Any) -> Any:
    """The floor of the quotient: coremltools takes floor_div by 1 for nothing, which it is for integers alone."""
    import tensorflow as tf

    return tf.floor(x / y) if x.dtype.is_floating else tf.raw_ops.FloorDiv(x=x, y=y)


def floor_mod(node: Any, x: Any, y: Any) -> Any:
    """What the floored quotient leaves."""
    import tensorflow as tf

    return x - floor_div(node, x, y) * y if x.dtype.is_floating else tf.raw_ops.FloorMod(x=x, y=y)


def sign_bit(node: Any, x: Any, mask: Any) -> Any:
    """BitwiseAnd of a float's bits with its sign bit, by which Keras's argmax tells -0.0 from 0.0; here both are 0."""
    import tensorflow as tf

    if x.op.type != "Bitcast" or known(mask) is None or int(known(mask)) != SIGN:
        raise Unsupported("Core ML has no operators on bits", where=f"operator {node.name}")
    return tf.cast(x.op.inputs[0] < 0, tf.int32) * SIGN


def bits(node: Any, x: Any) -> Any:
    """Bitcast as it is, for `sign_bit` to look through."""
    import tensorflow as tf

    return tf.bitcast(x, node.attr["type"].type)


def roll(node: Any, x: Any, shift: Any, axis: Any) -> Any:
    """Two slices the other way round, for each axis."""
    import numpy as np
    import tensorflow as tf

    if known(shift) is None or known(axis) is None:
        raise Unsupported("how far it rolls depends on the input", where=f"operator {node.name}")
    for by, along in zip(np.atleast_1d(known(shift)), np.atleast_1d(known(axis)), strict=True):
        size = x.shape[int(along)]
        cut = -int(by) % size
        if cut:
            x = tf.concat(tf.split(x, [cut, size - cut], int(along))[::-1], int(along))
    return x


def mirror_pad(node: Any, x: Any, paddings: Any) -> Any:
    """Padding by reversed slices: Core ML has no mode `symmetric`, and coremltools takes it for `reflect`, silently."""
    import tensorflow as tf

    amounts = known(paddings)
    if amounts is None:
        raise Unsupported("how much it pads depends on the input", where=f"operator {node.name}")
    inner = int(node.attr["mode"].s == b"REFLECT")
    for axis, (before, after) in enumerate(amounts.tolist()):
        size = x.shape[axis]
        parts = [x]
        if before:
            parts.insert(0, tf.reverse(_slice(x, axis, inner, inner + before), [axis]))
        if after:
            parts.append(tf.reverse(_slice(x, axis, size - inner - after, size - inner), [axis]))
        x = tf.concat(parts, axis) if len(parts) > 1 else x
    return x


def _slice(x: Any, axis: int, begin: int, end: int) -> Any:
    """x[..., begin:end, ...] along one axis."""
    index = [slice(None)] * x.shape.rank
    index[axis] = slice(begin, end)
    return x[tuple(index)]


REWRITES: dict[str, Callable[..., Any]] = {
    "BitwiseAnd": sign_bit,
    "Bitcast": bits,
    "Bucketize": bucketize,
    "DivNoNan": div_no_nan,
    "Erfc": erfc,
    "Expm1": expm1,
    "FloorDiv": floor_div,
    "FloorMod": floor_mod,
    "Inv": reciprocal,
    "IsInf": is_inf,
    "IsNan": is_nan,
    "MirrorPad": mirror_pad,
    "Reciprocal": reciprocal,
    "Roll": roll,
    "SelectV2": select,
}
"""Operator to a function of its node and inputs that gives its one output."""
