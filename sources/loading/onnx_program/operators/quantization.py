"""Quantize and dequantize: values stay real, rounded to the levels that the integers have."""

from __future__ import annotations

import torch
from onnx import TensorProto

from ..call import Call, Operator
from ..dtypes import DTYPES, FLOAT4, FLOAT8, NARROW, NUMBERS, cast

LEVELS = {
    TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127), TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767), **NARROW,
}  # fmt: skip
"""Least and greatest integer of ONNX's types."""


def _along(call: Call, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A scale or zero point in a shape that broadcasts: of everything, of each index of `axis`, or of blocks."""
    if value.dim() == 0 or value.numel() == 1:
        return value.reshape(())
    axis = call.get("axis", 1) % x.dim()
    if call.get("block_size", 0):
        return value.repeat_interleave(call.get("block_size"), axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.dim()
    shape[axis] = -1
    return value.reshape(shape)


def quantize(call: Call) -> torch.Tensor:
    """round(x / scale) + zero point, halves to even, cut to the range of the zero point's dtype."""
    x, scale = call.tensor(0), call.tensor(1)
    number = int(call.get("output_dtype", 0)) or (call.type_of(2) if call.has(2) else TensorProto.UINT8)
    levels = x / _along(call, x, scale)
    if number in FLOAT8 or number == FLOAT4:
        return cast(call, levels, number)
    if number not in LEVELS:
        raise call.refuse(f"to data type {number}")
    levels = torch.round(levels)
    if call.has(2):
        levels = levels + _along(call, x, call.tensor(2)).to(levels.dtype)
    return torch.clamp(levels, *LEVELS[number]).to(DTYPES[number])


def rounded(call: Call, levels: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """The nearest integers above a zero point, halves to even, cut to the range of its dtype."""
    low, high = LEVELS[NUMBERS[point.dtype]]
    return torch.clamp(torch.round(levels) + point.to(levels.dtype), low, high).to(point.dtype)


def dequantize(call: Call) -> torch.Tensor:
    """(x − zero point) · scale."""
    x, scale = call.tensor(0), call.tensor(1)
    values = x.to(scale.dtype)
    if call.has(2):
        values = values - _along(call, x, call.tensor(2)).to(scale.dtype)
    return values * _along(call, x, scale)


def dynamic_quantize(call: Call) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """uint8 with the range of this very tensor, widened to hold 0."""
    x = call.tensor(0)
    zero = torch.zeros((), dtype=x.dtype)
    low, high = torch.minimum(x.amin(), zero), torch.maximum(x.amax(), zero)
    scale = (high - low) / 255
    point = torch.clamp(torch.round(-low / scale), 0, 255)
    return torch.clamp(torch.round(x / scale) + point, 0, 255).to(torch.uint8), scale, point.to(torch.uint8)


OPERATORS: dict[str, Operator] = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize, "DynamicQuantizeLinear": dynamic_quantize,
}  # fmt: skip
