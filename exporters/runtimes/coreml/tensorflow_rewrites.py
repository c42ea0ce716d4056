"""TensorFlow operators that Core ML's converter lacks, written with operators that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def erfc(node: Any, x: Any) -> Any:
    """1 - erf(x): Keras's exact GELU is x / 2 * erfc(-x / sqrt 2)."""
    import tensorflow as tf

    return 1.0 - tf.math.erf(x)


def bucketize(node: Any, x: Any) -> Any:
    """The number of boundaries at or below each value, as Discretization asks for."""
    import tensorflow as tf

    boundaries = list(node.attr["boundaries"].list.f)
    reached = tf.cast(tf.expand_dims(tf.cast(x, tf.float32), -1) >= tf.constant(boundaries), tf.int32)
    return tf.reduce_sum(reached, axis=-1)


REWRITES: dict[str, Callable[..., Any]] = {"Bucketize": bucketize, "Erfc": erfc}
"""Operator to a function of its node and inputs that gives its one output."""
