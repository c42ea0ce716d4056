"""torch's operators as JAX functions, a module a family: each takes what the operator takes and is one expression.

Keys are the operators of torch's core ATen set, as in "aten.add.Tensor". A function gets arrays in the dtypes that
the program computes in, axes that may be symbolic, and no dtype, device or layout: the interpreter gives results
the dtype that torch's graph says (`dtypes.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import (
    arithmetic,
    creation,
    elementwise,
    indexing,
    linear,
    normalisation,
    pooling,
    reduction,
    resize,
    shape,
)

FAMILIES = (
    arithmetic, creation, elementwise, indexing, linear, normalisation, pooling, reduction, resize, shape
)  # fmt: skip

OPERATORS: Mapping[str, Callable[..., Any]] = {
    name: function for family in FAMILIES for name, function in family.OPERATORS.items()
}
"""Every operator by torch's name of it."""

IGNORED = (
    "aten._assert_tensor_metadata.default",
    "aten._assert_scalar.default",
    "aten._assert_async.msg",
    "aten.sym_constrain_range.default",
    "aten.sym_constrain_range_for_size.default",
)
"""What torch checks while it runs, and computes nothing with."""

KEPT = (
    "aten.linear.default",
    "aten.matmul.default",
    "aten.layer_norm.default",
    "aten.softmax.int",
    "aten.log_softmax.int",
    "aten.scaled_dot_product_attention.default",
    "aten.gelu.default",
    "aten.silu.default",
)
"""Operators that torch would take apart, and that have a better form here as a whole."""
