"""Quantize and dequantize: values stay real, rounded to the levels that the integers have."""

from __future__ import annotations

import torch

from ..call import Call, Operator

LEVELS = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
}


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
    dtype = call.tensor(2).dtype if call.has(2) else torch.uint8
    if dtype not in LEVELS:
        raise call.refuse(f"to {dtype}")
    low, high = LEVELS[dtype]
    levels = torch.round(x / _along(call, x, scale))
    if call.has(2):
        levels = levels + _along(call, x, call.tensor(2)).to(levels.dtype)
    return torch.clamp(levels, low, high).to(dtype)


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
