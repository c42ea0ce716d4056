"""Normalisation over channels, windows of channels, or chosen axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..program import Operation, UnknownOperator
from ..values import Inputs, OpFunction, Tensor
from .checks import axes_of


def batch_norm(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, by channel (axis 1)."""
    epsilon = x.number("epsilon", 1e-5)
    return (
        F.batch_norm(
            x["x"],
            x["mean"],
            x["variance"],
            x.optional("gamma"),
            x.optional("beta"),
            training=False,
            eps=epsilon,
        ),
    )


def instance_norm(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Each channel of each sample normalised over its own spatial elements."""
    data = x["x"]
    # One group a channel is instance normalisation; unlike torch's own it also takes a single spatial element.
    return (
        torch.group_norm(
            data, data.shape[1], x.optional("gamma"), x.optional("beta"), x.number("epsilon", 1e-5)
        ),
    )


def layer_norm(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta over `axes` (default: all of them).

    gamma and beta have the shape of x on those axes, in the order of x.
    """
    data = x["x"]
    axes = axes_of(x.integers("axes", range(data.dim())), data.dim(), op)
    gamma, beta, epsilon = x.optional("gamma"), x.optional("beta"), x.number("epsilon", 1e-5)
    if axes and axes == tuple(range(axes[0], data.dim())):
        shape = data.shape[axes[0] :]
        gamma, beta = (None if each is None else each.reshape(shape) for each in (gamma, beta))
        return (F.layer_norm(data, shape, gamma, beta, epsilon),)
    shape = torch.Size(data.shape[axis] if axis in axes else 1 for axis in range(data.dim()))
    variance, mean = torch.var_mean(data, dim=axes, correction=0, keepdim=True)
    result = (data - mean) * torch.rsqrt(variance + epsilon)
    if gamma is not None:
        result = result * gamma.reshape(shape)
    return (result if beta is None else result + beta.reshape(shape),)


def l2_norm(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x / sqrt(sum of squares + epsilon) over the last three axes."""
    data = x["x"]
    squares = data.square().sum(dim=(-3, -2, -1), keepdim=True)
    return (data / torch.sqrt(squares + x.number("epsilon", 1e-6)),)


def local_response_norm(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x / (k + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""
    size, alpha = x.integer("size"), x.number("alpha", 1e-4)
    if size % 2 == 0:
        # Which channels an even window holds is documented nowhere, and coremltools' tests say two things.
        raise UnknownOperator.at(op.name, "local_response_norm with an even size")
    return (F.local_response_norm(x["x"], size, alpha, x.number("beta", 0.75), x.number("k", 1.0)),)


OPS: dict[str, OpFunction] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
    "local_response_norm": local_response_norm,
}
