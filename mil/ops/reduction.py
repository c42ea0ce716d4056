"""Reductions over some axes (all, where none are named)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..program import Operation
from ..values import Inputs, OpFunction, Tensor

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def over_axes(function: Reduction) -> OpFunction:
    """An operator that reduces `axes` by `function(x, axes, keep_dims)`."""

    def reduce(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
        data = x["x"]
        axes = x.integers("axes", tuple(range(data.dim()))) or tuple(range(data.dim()))
        axes = tuple(axis % data.dim() if -data.dim() <= axis < data.dim() else axis for axis in axes)
        return (function(data, axes, x.flag("keep_dims", False)),)

    return reduce


def over_axis(function: Callable[[Tensor, int, bool], Tensor]) -> OpFunction:
    """An operator that reduces one `axis` by `function(x, axis, keep_dims)`."""
    return lambda op, x: (function(x["x"], x.integer("axis", -1), x.flag("keep_dims", False)),)


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.mean(x if x.is_floating_point() else x.double(), axes, keepdim=keep)


def _prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


OPS: dict[str, OpFunction] = {
    "reduce_argmax": over_axis(lambda x, axis, keep: torch.argmax(x, axis, keepdim=keep)),
    "reduce_argmin": over_axis(lambda x, axis, keep: torch.argmin(x, axis, keepdim=keep)),
    "reduce_l1_norm": over_axes(lambda x, axes, keep: torch.sum(torch.abs(x), axes, keepdim=keep)),
    "reduce_l2_norm": over_axes(
        lambda x, axes, keep: torch.sqrt(torch.sum(torch.square(x), axes, keepdim=keep))
    ),
    "reduce_log_sum": over_axes(lambda x, axes, keep: torch.log(torch.sum(x, axes, keepdim=keep))),
    "reduce_log_sum_exp": over_axes(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "reduce_max": over_axes(lambda x, axes, keep: torch.amax(x, axes, keepdim=keep)),
    "reduce_mean": over_axes(_mean),
    "reduce_min": over_axes(lambda x, axes, keep: torch.amin(x, axes, keepdim=keep)),
    "reduce_prod": over_axes(_prod),
    "reduce_sum": over_axes(lambda x, axes, keep: torch.sum(x, axes, keepdim=keep)),
    "reduce_sum_square": over_axes(lambda x, axes, keep: torch.sum(torch.square(x), axes, keepdim=keep)),
}
