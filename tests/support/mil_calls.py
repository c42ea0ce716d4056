"""Calls one operator of the MIL evaluator as the evaluator would, with plain Python values as inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from modelport.mil.ops import OPS
from modelport.mil.program import NamedType, Operation, ValueType
from modelport.mil.values import Inputs, stored


def carrier(value: Any) -> Any:
    """A value as operators get it: floats as float32, Python integers as int32, tuples for variadic inputs."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return tuple(carrier(item) for item in value)
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
    if tensor.is_floating_point():
        return tensor.float()
    given_as_python = not isinstance(value, torch.Tensor | np.ndarray)
    return tensor.int() if given_as_python and tensor.dtype == torch.int64 else tensor


def apply_all(kind: str, dtypes: tuple[str, ...] = ("fp32",), /, **inputs: Any) -> tuple[Any, ...]:
    """Every result of operator `kind`, stored as `dtypes`; inputs that are None are left out."""
    outputs = tuple(NamedType(f"y{n}", ValueType(dtype)) for n, dtype in enumerate(dtypes))
    operation = Operation(kind, "tested", {}, outputs)
    given = {name: carrier(value) for name, value in inputs.items() if value is not None}
    results = OPS[kind](operation, Inputs(given, None, "tested"))
    kinds = dtypes * len(results) if len(dtypes) == 1 else dtypes
    return tuple(stored(value, dtype, False) for value, dtype in zip(results, kinds, strict=True))


def apply(kind: str, dtype: str = "fp32", /, **inputs: Any) -> Any:
    """The one result of operator `kind`, stored as `dtype`, as a numpy array."""
    (result,) = apply_all(kind, (dtype,), **inputs)
    return result.numpy() if isinstance(result, torch.Tensor) else result
