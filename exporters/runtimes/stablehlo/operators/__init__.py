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

FIRST_ALONE = (
    *(f"aten.max_pool{n}d_with_indices.default" for n in (1, 2, 3)),
    *(f"aten.adaptive_max_pool{n}d.default" for n in (1, 2, 3)),
    "aten.cummax.default",
    "aten._native_batch_norm_legit_no_training.default",
)
"""Operators of several results, of which only the first has a form here."""

KEPT = (
    "aten.linear.default",
    "aten.matmul.default",
    "aten.layer_norm.default",
    "aten.softmax.int",
    "aten.log_softmax.int",
    "aten.scaled_dot_product_attention.default",
    "aten.gelu.default",
    "aten.silu.default",
    "aten.adaptive_avg_pool1d.default",
    "aten.adaptive_avg_pool2d.default",
    "aten.adaptive_avg_pool3d.default",
)
"""Operators that torch would take apart, and that have a better form here as a whole."""
