"""Values at the edge of a .tflite file: real numbers as its integers, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...targets.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def to_boundary(values: Array, detail: Mapping[str, Any]) -> Array:
    """Real numbers or ids as the file's input dtype: q = round(x / scale) + zero point, saturated.

    Rounds halves to even, as the reference quantizer does (numpy.rint).
    """
    import numpy as np

    dtype = np.dtype(detail["dtype"])
    scales = detail["quantization_parameters"]["scales"]
    if dtype.kind in "iu" and len(scales):
        zero = float(detail["quantization_parameters"]["zero_points"][0])
        limits = np.iinfo(dtype)
        scaled = np.rint(values.astype(np.float64) / float(scales[0])) + zero
        return np.ascontiguousarray(np.clip(scaled, limits.min, limits.max), dtype)
    if dtype.kind in "iu" and values.dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise UsageError(f"an id lies outside {dtype.name}", where=str(detail["name"]))
    return np.ascontiguousarray(values, dtype)


def from_boundary(values: Array, detail: Mapping[str, Any]) -> Array:
    """The file's output as real numbers: x = (q - zero point) · scale."""
    import numpy as np

    scales = detail["quantization_parameters"]["scales"]
    if values.dtype.kind in "iu" and len(scales):
        zero = float(detail["quantization_parameters"]["zero_points"][0])
        return ((values.astype(np.float64) - zero) * float(scales[0])).astype(np.float32)
    return values.astype(np.float32) if values.dtype == np.float16 else values
