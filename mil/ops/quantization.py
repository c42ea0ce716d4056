"""Activations to 8-bit integers and back (iOS17)."""

from __future__ import annotations

import torch

from ...targets.errors import SourceUnreadable
from ..program import Operation, UnknownOperator
from ..values import CARRIERS, Inputs, OpFunction, Tensor
from .checks import axis_of

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
"""What an integer type holds."""


def along(parameter: Tensor, data: Tensor, axis: int | None, op: Operation) -> Tensor:
    """`parameter` in float32, to broadcast against `data`: one value, or one a place on `axis`."""
    if parameter.numel() == 1:
        return parameter.float().reshape(())
    if axis is None or parameter.dim() != 1 or parameter.shape[0] != data.shape[axis]:
        raise SourceUnreadable(
            f"scales or zero points of shape {list(parameter.shape)} for {list(data.shape)} on axis {axis}",
            where=op.name,
        )
    return parameter.float().reshape(-1, *[1] * (data.dim() - axis - 1))


def quantize(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """clip(round(input / scale) + zero_point), rounded half to even, to the range of `output_dtype`."""
    dtype = x.text("output_dtype")
    if dtype not in RANGES:
        raise UnknownOperator.at(op.name, f"quantize to {dtype}")
    data, scale, zero_point = _parameters(op, x)
    return (torch.round(data / scale).add(zero_point).clamp(*RANGES[dtype]).to(CARRIERS[dtype]),)


def dequantize(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """scale * (input - zero_point)."""
    data, scale, zero_point = _parameters(op, x)
    return ((data.float() - zero_point) * scale,)


def _parameters(op: Operation, x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    data, zero_point = x["input"], x.optional("zero_point")
    axis = axis_of(x.integer("axis"), data.dim(), op) if "axis" in x else None
    scale = along(x["scale"], data, axis, op)
    return data, scale, torch.zeros(()) if zero_point is None else along(zero_point, data, axis, op)


OPS: dict[str, OpFunction] = {"dequantize": dequantize, "quantize": quantize}
