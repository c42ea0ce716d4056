"""ONNX's data types in torch and NumPy: torch holds what it cannot compute with in the next wider type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from .call import Call

Array = np.ndarray[Any, Any]

BFLOAT16, FLOAT4, FLOAT8_E8M0 = TensorProto.BFLOAT16, TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E8M0

FLOAT8 = {
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn, TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2, TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    FLOAT8_E8M0: torch.float8_e8m0fnu,
}  # fmt: skip
"""8-bit floats, which torch stores and converts."""

NARROW = {
    TensorProto.INT4: (-8, 7), TensorProto.UINT4: (0, 15), TensorProto.INT2: (-2, 1), TensorProto.UINT2: (0, 3),
}  # fmt: skip
"""Least and greatest value of the integers that torch holds in 8 bits."""

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16,
    BFLOAT16: torch.bfloat16, TensorProto.BOOL: torch.bool, TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16, TensorProto.INT32: torch.int32, TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8, TensorProto.UINT16: torch.uint16, TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64, **FLOAT8, FLOAT4: torch.float32,
    **{number: torch.int8 if low else torch.uint8 for number, (low, _) in NARROW.items()},
}  # fmt: skip
"""torch's dtype of onnx.TensorProto.DataType: texts and complex numbers are missing."""

NUMBERS: dict[torch.dtype, int] = {dtype: number for number, dtype in reversed(DTYPES.items())}
"""ONNX's number of a torch dtype; of those that share one, the type itself."""

_BITS: dict[torch.dtype, np.dtype[Any]] = {
    torch.bfloat16: np.dtype(np.int16),
    **dict.fromkeys(FLOAT8.values(), np.dtype(np.uint8)),
}
"""Types that pass between torch and NumPy by their bits."""

_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in _BITS}


def to_torch(value: Array) -> torch.Tensor:
    """The array as a tensor on the same memory where that may be written; 2- and 4-bit types are widened."""
    dtype = _BY_NAME.get(value.dtype.name)
    if value.dtype.name in ("int4", "int2", "uint4", "uint2"):
        value = value.astype(np.int8 if value.dtype.name.startswith("int") else np.uint8)
    elif value.dtype.name == "float4_e2m1fn":
        value = value.astype(np.float32)
    held = value if dtype is None else value.view(_BITS[dtype])
    # torch knows neither read-only memory nor a byte order of its own.
    tensor = torch.from_numpy(np.require(held, held.dtype.newbyteorder("="), ["C", "W"]))
    return tensor if dtype is None else tensor.view(dtype)


def to_numpy(value: torch.Tensor) -> Array:
    """The tensor's values, in the dtypes of ml_dtypes where NumPy has none of its own."""
    value = value.detach().contiguous()
    if value.dtype not in _BITS:
        return np.asarray(value.numpy())
    bits = torch.int16 if value.dtype == torch.bfloat16 else torch.uint8
    return np.asarray(value.view(bits).numpy().view(helper.tensor_dtype_to_np_dtype(NUMBERS[value.dtype])))


WIDE = (torch.uint16, torch.uint32, torch.uint64)
"""Unsigned integers that torch stores, and computes next to nothing with."""


def widened(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function on int64 where an input is one of `WIDE`: uint64 is right below 2^63, and in sums always."""

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        wide = next((tensor.dtype for tensor in tensors if tensor.dtype in WIDE), None)
        if wide is None:
            return function(*tensors)
        result = function(*(each.to(torch.int64) if each.dtype in WIDE else each for each in tensors))
        return result.to(wide) if result.dtype == torch.int64 else result

    return run


def dtype_of(call: Call, number: int) -> torch.dtype:
    """torch's dtype of ONNX's number; raises Unsupported where there is none."""
    if number not in DTYPES:
        raise call.refuse(f"to data type {TensorProto.DataType.Name(number)}")
    return DTYPES[number]


def cast(call: Call, x: torch.Tensor, number: int) -> torch.Tensor:
    """x in ONNX's type `number`: floats become integers towards zero, 8-bit floats by `saturate`."""
    dtype = dtype_of(call, number)
    if number in NARROW:
        low, high = NARROW[number]
        return ((x.to(torch.int64) - low) % (high - low + 1) + low).to(dtype)
    if number == FLOAT4:
        return _float4(x.float())
    if number == FLOAT8_E8M0:
        return _power_of_two(call, x.float())
    if number in FLOAT8:
        wide, top = x.float(), torch.finfo(dtype).max
        if call.get("saturate", 1):
            wide = torch.clamp(wide, -top, top)
        elif dtype == torch.float8_e4m3fn:
            # torch saturates here: beyond the middle between 448 and what would be the next value is NaN.
            wide = torch.where(wide.abs() > 464, torch.nan, wide)
        return wide.to(dtype)
    # torch converts a negative float to an unsigned integer as the machine likes: it wraps in the others.
    if x.is_floating_point() and dtype in (torch.uint8, torch.uint16, torch.uint32):
        return x.to(torch.int64).to(dtype)
    return x.to(dtype)


def _float4(x: torch.Tensor) -> torch.Tensor:
    """Rounded to 0, 0.5, 1, 1.5, 2, 3, 4 or 6 with a sign, halves to even; 6 beyond it, -0 where x is NaN."""
    x = torch.where(torch.isnan(x), -0.0, x)
    size = x.abs().clamp(max=6.0)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign(torch.round(size / step) * step, x)


def _power_of_two(call: Call, x: torch.Tensor) -> torch.Tensor:
    """8 bits of exponent: rounded up, down or to the nearest power of two, as `round_mode` says."""
    mode = call.get("round_mode", "up")
    fraction, exponent = torch.frexp(x.abs())
    # x = fraction · 2^exponent with a fraction of 0.5 to 1.
    exponent = exponent.int() - 1
    bound = {"up": 0.5, "nearest": 0.75, "down": 1.0}[mode]
    more = fraction > bound if mode == "up" else fraction >= bound
    power = torch.where(x == 0, -127, torch.clamp(exponent + more.int(), -127, 127))
    bits = torch.where(torch.isfinite(x), power + 127, 254 if call.get("saturate", 1) else 255)
    return torch.where(torch.isnan(x), 255, bits).to(torch.uint8).view(torch.float8_e8m0fnu)
