"""Round-to-nearest of one matrix's rows to int8 or float8, value for value as compressed-tensors computes it in torch.

torch computes bfloat16 and float16 in float32 and rounds after every operation, and so does numpy with ml_dtypes:
scale = max |w| / (range / 2); stored = round(clamp(w / scale)), each rounded to the weights' own dtype.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

NUMPY: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "int8": np.dtype(np.int8),
}
"""numpy's dtypes by modelport's names."""

LIMITS = {"int8": (-128.0, 127.0), "float8_e4m3": (-448.0, 448.0)}
"""The least and the greatest value that is stored."""


def scales(rows: Array, kind: str) -> Array:
    """The scale of each row, (rows, 1), in the rows' dtype; for a row of zeros that dtype's epsilon.

    compressed_tensors.quantization.utils.calculate_qparams, symmetric.
    """
    dtype = rows.dtype
    low, high = LIMITS[kind]
    zero = np.zeros((), dtype)
    largest = np.maximum(
        np.abs(np.minimum(rows.min(axis=1), zero)), np.abs(np.maximum(rows.max(axis=1), zero))
    )
    half = (np.array(high - low, np.float32).astype(dtype) / np.array(2, dtype)).astype(dtype)
    found: Array = (largest / half).astype(dtype)
    found[found == zero] = epsilon(dtype)
    return found[:, None]


def epsilon(dtype: np.dtype[Any]) -> Any:
    """The distance from 1 to the next value of a floating-point dtype."""
    about: Any = ml_dtypes.finfo  # untyped there
    return np.array(float(about(dtype).eps), dtype)


def quantize(rows: Array, scale: Array, kind: str) -> Array:
    """The rows in `kind`: divided by their scales, clamped and rounded to nearest, ties to even."""
    low, high = LIMITS[kind]
    dtype = rows.dtype
    # A zero point of 0 is added there, which makes +0 of -0.
    divided = (rows / scale).astype(dtype) + np.zeros((), dtype)
    # Clamping in the weights' own dtype moves nothing: both limits are values of all of them.
    clamped = np.clip(divided.astype(np.float32), low, high)
    if kind == "int8":
        return np.rint(clamped).astype(np.int8)
    return clamped.astype(NUMPY[kind])
