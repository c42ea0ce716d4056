"""Elementwise arithmetic and activation functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..call import Call, Operator
from ..dtypes import widened


def _unary(function: Callable[[Any], Any]) -> Operator:
    safe = widened(function)
    return lambda call: safe(call.tensor(0))


def _binary(function: Callable[[Any, Any], Any]) -> Operator:
    safe = widened(function)
    return lambda call: safe(call.tensor(0), call.tensor(1))


def _many(function: Callable[[Any, Any], Any]) -> Operator:
    safe = widened(function)
    return lambda call: functools.reduce(safe, call.tensors())


def div(call: Call) -> torch.Tensor:
    """Integers are divided towards zero."""
    a = call.tensor(0)
    return a / call.tensor(1) if a.is_floating_point() else widened(_quotient)(a, _divisor(call))


def _divisor(call: Call) -> torch.Tensor:
    """Integer division by zero is undefined: 1 takes its place, so that no value can stop a program."""
    b = call.tensor(1)
    if b.is_floating_point() or not isinstance(call.inputs[1], torch.Tensor):
        return b
    return widened(lambda each: torch.where(each == 0, torch.ones_like(each), each))(b)


def _quotient(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.div(a, b, rounding_mode="trunc")


def mod(call: Call) -> torch.Tensor:
    """The sign of the divisor, or of the dividend with fmod=1."""
    return widened(torch.fmod if call.get("fmod", 0) else torch.remainder)(call.tensor(0), _divisor(call))


def power(call: Call) -> torch.Tensor:
    """In the dtype of the base."""
    base = call.tensor(0)
    return torch.pow(base, call.tensor(1)).to(base.dtype)


def mean(call: Call) -> torch.Tensor:
    """The mean of all inputs."""
    values = call.tensors()
    return functools.reduce(torch.add, values) / len(values)


def clip(call: Call) -> torch.Tensor:
    """Bounds are attributes before opset 11, optional inputs from then on."""
    x = call.tensor(0)
    low = call.tensor(1) if call.has(1) else call.get("min")
    high = call.tensor(2) if call.has(2) else call.get("max")
    if low is not None:
        x = torch.maximum(x, torch.as_tensor(low, dtype=x.dtype))
    return x if high is None else torch.minimum(x, torch.as_tensor(high, dtype=x.dtype))


def hard_sigmoid(call: Call) -> torch.Tensor:
    """max(0, min(1, alpha · x + beta))."""
    return torch.clamp(call.tensor(0) * call.get("alpha", 0.2) + call.get("beta", 0.5), 0, 1)


def hard_swish(call: Call) -> torch.Tensor:
    """x · max(0, min(1, x / 6 + 0.5))."""
    x = call.tensor(0)
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


def selu(call: Call) -> torch.Tensor:
    """gamma · (x > 0 ? x : alpha · (exp(x) − 1))."""
    x, alpha = call.tensor(0), call.get("alpha", 1.6732632423543772)
    return call.get("gamma", 1.0507009873554805) * torch.where(x > 0, x, alpha * torch.expm1(x))


def prelu(call: Call) -> torch.Tensor:
    """The slope is broadcast as NumPy would."""
    x, slope = call.tensor(0), call.tensor(1)
    if call.opset < 7 and slope.dim() == 1 and x.dim() > 2:
        slope = slope.reshape([-1] + [1] * (x.dim() - 2))
    return torch.where(x < 0, x * slope, x)


def thresholded(call: Call) -> torch.Tensor:
    """x where it is above alpha, else 0."""
    x = call.tensor(0)
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


def shrink(call: Call) -> torch.Tensor:
    """x + bias below −lambd, x − bias above lambd, 0 between."""
    x, lambd, bias = call.tensor(0), call.get("lambd", 0.5), call.get("bias", 0.0)
    zero = torch.zeros_like(x)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, zero)).to(x.dtype)


def gelu(call: Call) -> torch.Tensor:
    """Exact, or by tanh."""
    return F.gelu(call.tensor(0), approximate=call.get("approximate", "none"))


def bit_shift(call: Call) -> torch.Tensor:
    """Left or right."""
    a, b = call.tensor(0), call.tensor(1)
    wide = torch.int64
    shifted = (
        torch.bitwise_left_shift(a.to(wide), b.to(wide))
        if call.get("direction") == "LEFT"
        else torch.bitwise_right_shift(a.to(wide), b.to(wide))
    )
    return shifted.to(a.dtype)


OPERATORS: dict[str, Operator] = {
    "Add": _binary(torch.add), "Sub": _binary(torch.sub), "Mul": _binary(torch.mul), "Div": div, "Mod": mod,
    "Pow": power, "Sum": _many(torch.add), "Mean": mean, "Min": _many(torch.minimum), "Max": _many(torch.maximum),
    "Neg": _unary(torch.neg), "Abs": _unary(torch.abs), "Sign": _unary(torch.sign), "Sqrt": _unary(torch.sqrt),
    "Reciprocal": _unary(torch.reciprocal), "Exp": _unary(torch.exp), "Log": _unary(torch.log),
    "Erf": _unary(torch.erf), "Floor": _unary(torch.floor), "Ceil": _unary(torch.ceil), "Round": _unary(torch.round),
    "Sin": _unary(torch.sin), "Cos": _unary(torch.cos), "Tan": _unary(torch.tan), "Asin": _unary(torch.asin),
    "Acos": _unary(torch.acos), "Atan": _unary(torch.atan), "Sinh": _unary(torch.sinh), "Cosh": _unary(torch.cosh),
    "Tanh": _unary(torch.tanh), "Asinh": _unary(torch.asinh), "Acosh": _unary(torch.acosh),
    "Atanh": _unary(torch.atanh), "Sigmoid": _unary(torch.sigmoid), "Relu": _unary(torch.relu),
    "Softplus": _unary(F.softplus), "Softsign": _unary(F.softsign), "Mish": _unary(F.mish), "Gelu": gelu,
    "LeakyRelu": lambda call: F.leaky_relu(call.tensor(0), call.get("alpha", 0.01)),
    "Elu": lambda call: F.elu(call.tensor(0), call.get("alpha", 1.0)),
    "Celu": lambda call: F.celu(call.tensor(0), call.get("alpha", 1.0)),
    "Swish": lambda call: call.tensor(0) * torch.sigmoid(call.get("alpha", 1.0) * call.tensor(0)),
    "Selu": selu, "PRelu": prelu, "ThresholdedRelu": thresholded, "Shrink": shrink, "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish, "Clip": clip, "BitShift": bit_shift, "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseOr": _binary(torch.bitwise_or), "BitwiseXor": _binary(torch.bitwise_xor),
    "BitwiseNot": _unary(torch.bitwise_not),
}  # fmt: skip
