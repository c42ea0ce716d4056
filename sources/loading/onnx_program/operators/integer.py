"""Products of quantized integers: summed exactly, as wide as int32 or float64 hold them."""

from __future__ import annotations

import torch

from ..call import Call, Operator
from . import convolution, quantization


def _less(call: Call, x: int, point: int, axis: int) -> torch.Tensor:
    """Input `x` less the zero point at input `point`: one, or one of each index along `axis`, in float64."""
    value = call.tensor(x).double()
    if not call.has(point):
        return value
    offset = call.tensor(point).double()
    if offset.dim() == 1 and offset.shape[0] > 1:
        shape = [1] * value.dim()
        shape[axis] = -1
        offset = offset.reshape(shape)
    elif offset.numel() == 1:
        offset = offset.reshape(())
    return value - offset


def matmul_integer(call: Call) -> torch.Tensor:
    """8-bit integers less their zero points, in int32."""
    return torch.matmul(_less(call, 0, 2, -2), _less(call, 1, 3, -1)).to(torch.int32)


def conv_integer(call: Call) -> torch.Tensor:
    """8-bit integers less their zero points, in int32; what is padded stands for the zero point."""
    return convolution.over(call, _less(call, 0, 2, 1), _less(call, 1, 3, 0), None).to(torch.int32)


def qlinear_matmul(call: Call) -> torch.Tensor:
    """a, its scale and zero point, b and its own, then those of the result."""
    scale = _scale(call, 1, -2, call.tensor(0)) * _scale(call, 4, -1, call.tensor(3))
    product = torch.matmul(_less(call, 0, 2, -2), _less(call, 3, 5, -1)) * scale
    return quantization.rounded(call, product / call.tensor(6).double(), call.tensor(7))


def qlinear_conv(call: Call) -> torch.Tensor:
    """x, its scale and zero point, the weight and its own, those of the result, and an int32 bias."""
    bias = call.tensor(8).double() if call.has(8) else None
    total = convolution.over(call, _less(call, 0, 2, 1), _less(call, 3, 5, 0), bias)
    scale = call.tensor(1).double() * call.tensor(4).double().reshape(1, -1, *[1] * (total.dim() - 2))
    return quantization.rounded(call, total * scale / call.tensor(6).double(), call.tensor(7))


def _scale(call: Call, index: int, axis: int, like: torch.Tensor) -> torch.Tensor:
    scale = call.tensor(index).double()
    if scale.numel() == 1:
        return scale.reshape(())
    shape = [1] * like.dim()
    shape[axis] = -1
    return scale.reshape(shape)


OPERATORS: dict[str, Operator] = {
    "MatMulInteger": matmul_integer, "ConvInteger": conv_integer, "QLinearMatMul": qlinear_matmul,
    "QLinearConv": qlinear_conv,
}  # fmt: skip
