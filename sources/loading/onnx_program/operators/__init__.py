"""The ONNX operators that become torch functions, by name; one module a family."""

from __future__ import annotations

from ..call import Operator
from . import (
    attention,
    casting,
    classic,
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
    recurrent, quantization, integer, attention, resize, sampling, signal, classic,
)  # fmt: skip

OPERATORS: dict[str, Operator] = {
    name: function for family in FAMILIES for name, function in family.OPERATORS.items()
}
"""Operator to the function that computes it."""

DOMAINS = dict.fromkeys(classic.OPERATORS, "ai.onnx.ml")
"""Domain of an operator that is not of ai.onnx."""
