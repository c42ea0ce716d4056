"""Operators that work element by element, binary ones with NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...targets.errors import SourceUnreadable
from ..program import Operation
from ..values import CARRIERS, Inputs, OpFunction, Tensor


def unary(function: Callable[[Tensor], Tensor]) -> OpFunction:
    """An operator of one tensor, x."""
    return lambda op, x: (function(x["x"]),)


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> OpFunction:
    """An operator of two tensors, x and y, that broadcast against each other."""
    return lambda op, x: (function(x["x"], x["y"]),)


def _floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


def clip(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """min(max(x, alpha), beta)."""
    return (torch.clamp(x["x"], x.number("alpha"), x.number("beta")),)


def threshold(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """max(x, alpha)."""
    return (torch.maximum(x["x"], x["alpha"].to(x["x"].dtype)),)


def inverse(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """1 / (x + epsilon)."""
    return (torch.reciprocal(x["x"] + x.number("epsilon", 1e-4)),)


def log(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The natural logarithm of x + epsilon."""
    return (torch.log(x["x"] + x.number("epsilon", 1e-45)),)


def rsqrt(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """1 / sqrt(x + epsilon)."""
    return (torch.rsqrt(x["x"] + x.number("epsilon", 1e-12)),)


def cast(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x as `dtype`: floats to integers towards zero, numbers to bool by x != 0."""
    name = {"double": "fp64", "float": "fp32", "int": "int32"}.get(x.text("dtype"), x.text("dtype"))
    if name not in CARRIERS:
        raise SourceUnreadable(f"the dtype {name!r} is not known", where=f"operation {op.name}: dtype")
    return (x["x"].to(CARRIERS[name]),)


def identity(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x itself."""
    return (x["x"],)


OPS: dict[str, OpFunction] = {
    "abs": unary(torch.abs),
    "acos": unary(torch.acos),
    "add": binary(torch.add),
    "asin": unary(torch.asin),
    "atan": unary(torch.atan),
    "atanh": unary(torch.atanh),
    "cast": cast,
    "ceil": unary(torch.ceil),
    "clip": clip,
    "cos": unary(torch.cos),
    "cosh": unary(torch.cosh),
    "equal": binary(torch.eq),
    "erf": unary(torch.erf),
    "exp": unary(torch.exp),
    "exp2": unary(torch.exp2),
    "floor": unary(torch.floor),
    "floor_div": binary(_floor_div),
    "greater": binary(torch.gt),
    "greater_equal": binary(torch.ge),
    "identity": identity,
    "inverse": inverse,
    "less": binary(torch.lt),
    "less_equal": binary(torch.le),
    "log": log,
    "logical_and": binary(torch.logical_and),
    "logical_not": unary(torch.logical_not),
    "logical_or": binary(torch.logical_or),
    "logical_xor": binary(torch.logical_xor),
    "maximum": binary(torch.maximum),
    "minimum": binary(torch.minimum),
    "mod": binary(torch.remainder),
    "mul": binary(torch.mul),
    "not_equal": binary(torch.ne),
    "pow": binary(torch.pow),
    "real_div": binary(torch.true_divide),
    "round": unary(torch.round),
    "rsqrt": rsqrt,
    "sign": unary(torch.sign),
    "sin": unary(torch.sin),
    "sinh": unary(torch.sinh),
    "sqrt": unary(torch.sqrt),
    "square": unary(torch.square),
    "sub": binary(torch.sub),
    "tan": unary(torch.tan),
    "tanh": unary(torch.tanh),
    "threshold": threshold,
}
