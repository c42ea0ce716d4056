"""Activation functions; `alpha` and `beta` are scalars, or one value a channel (axis 1) where the name says so."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..program import Operation, UnknownOperator
from ..values import Inputs, OpFunction, Tensor
from .elementwise import unary


def clamped_relu(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """min(beta, x) where x >= 0, else min(beta, alpha x)."""
    slopes = torch.where(x["x"] >= 0, x["x"], x["x"] * x.number("alpha"))
    return (torch.clamp(slopes, max=x.number("beta")),)


def elu(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x where x > 0, else alpha (exp(x) - 1)."""
    return (F.elu(x["x"], alpha=x.number("alpha", 1.0)),)


def gelu(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The Gaussian error linear unit: exact by erf, or by tanh or by x sigmoid(1.702 x)."""
    mode = x.text("mode", "EXACT")
    if mode == "EXACT":
        return (F.gelu(x["x"]),)
    if mode == "TANH_APPROXIMATION":
        return (F.gelu(x["x"], approximate="tanh"),)
    if mode == "SIGMOID_APPROXIMATION":
        return (x["x"] * torch.sigmoid(1.702 * x["x"]),)
    raise UnknownOperator.at(op.name, f"gelu with mode={mode}")


def leaky_relu(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x where x >= 0, else alpha x."""
    return (F.leaky_relu(x["x"], x.number("alpha", 0.01)),)


def linear_activation(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """alpha x + beta."""
    return (x["x"] * x.number("alpha") + x.number("beta"),)


def prelu(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x where x > 0, else alpha x with an alpha a channel."""
    return (torch.where(x["x"] > 0, x["x"], x["x"] * _channels(x, "alpha")),)


def scaled_tanh(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """alpha tanh(beta x)."""
    return (torch.tanh(x["x"] * x.number("beta", 1.0)) * x.number("alpha", 1.0),)


def sigmoid_hard(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """min(max(alpha x + beta, 0), 1)."""
    return (torch.clamp(x["x"] * x.number("alpha", 0.2) + x.number("beta", 0.5), 0, 1),)


def softplus_parametric(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """alpha log(1 + exp(beta x)) with an alpha and a beta a channel."""
    scaled = x["x"] * _channels(x, "beta")
    return (_channels(x, "alpha") * torch.logaddexp(scaled, torch.zeros_like(scaled)),)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without the linear cut-off of torch's own."""
    return torch.logaddexp(x, torch.zeros_like(x))


def softmax(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """exp(x) / sum(exp(x)) along `axis`."""
    return (torch.softmax(x["x"], x.integer("axis", -1)),)


def thresholded_relu(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x where x >= alpha, else 0."""
    return (torch.where(x["x"] >= x.number("alpha", 1.0), x["x"], torch.zeros_like(x["x"])),)


def _channels(x: Inputs, name: str) -> Tensor:
    value: Tensor = x[name]
    return value.reshape(-1, *[1] * (x["x"].dim() - 2)) if value.dim() else value


OPS: dict[str, OpFunction] = {
    "clamped_relu": clamped_relu,
    "elu": elu,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "linear_activation": linear_activation,
    "prelu": prelu,
    "relu": unary(torch.relu),
    "relu6": unary(lambda x: torch.clamp(x, 0, 6)),
    "scaled_tanh": scaled_tanh,
    "sigmoid": unary(torch.sigmoid),
    "sigmoid_hard": sigmoid_hard,
    "silu": unary(F.silu),
    "softmax": softmax,
    "softplus": unary(softplus),
    "softplus_parametric": softplus_parametric,
    "softsign": unary(F.softsign),
    "thresholded_relu": thresholded_relu,
}
