"""The ONNX operators that become torch functions, by name; one module a family."""

from __future__ import annotations

from ..call import Operator
from . import (
    attention,
    casting,
    comparison,
    convolution,
    elementwise,
    indexing,
    integer,
    linear,
    normalisation,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sampling,
    shape,
    signal,
)

FAMILIES = (
    elementwise, casting, comparison, convolution, pooling, reduction, shape, indexing, normalisation, linear,
    recurrent, quantization, integer, attention, resize, sampling, signal,
)  # fmt: skip

OPERATORS: dict[str, Operator] = {
    name: function for family in FAMILIES for name, function in family.OPERATORS.items()
}
"""Operator of the domain ai.onnx to the function that computes it."""
