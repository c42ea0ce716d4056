"""Reductions over axes, cumulative sums, and the places of the largest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..call import Call, Operator


def _axes(call: Call) -> list[int] | None:
    """The axes to reduce; None: nothing is reduced."""
    x, axes = call.tensor(0), call.ints(1, "axes")
    if axes:
        return axes
    return None if call.get("noop_with_empty_axes", 0) else list(range(x.dim()))


def _reduce(function: Callable[[Any, list[int], bool], Any]) -> Operator:
    def run(call: Call) -> torch.Tensor:
        x, axes = call.tensor(0), _axes(call)
        keep = bool(call.get("keepdims", 1))
        if axes is None:
            axes = []
        result: torch.Tensor = function(x, axes, keep)
        return result.to(x.dtype)

    return run


def _product(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _plain(function: Callable[..., Any]) -> Callable[[Any, list[int], bool], Any]:
    """torch takes an empty list of axes for all of them."""
    return lambda x, axes, keep: function(x, axes, keepdim=keep) if axes else x


def _mean(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    if not axes:
        return x
    return x.mean(axes, keepdim=keep) if x.is_floating_point() else x.double().mean(axes, keepdim=keep)


def _float(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_floating_point() else x.double()


def _sum(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return x.sum(axes, keepdim=keep) if axes else x


def arg(function: Callable[..., Any]) -> Operator:
    """ArgMax or ArgMin; the last of equals where select_last_index asks for it."""

    def run(call: Call) -> torch.Tensor:
        x, axis = call.tensor(0), call.get("axis", 0)
        keep = bool(call.get("keepdims", 1))
        if call.get("select_last_index", 0):
            return x.shape[axis] - 1 - function(torch.flip(x, [axis]), dim=axis, keepdim=keep)
        return function(x, dim=axis, keepdim=keep)

    return run


def cumulative(call: Call) -> torch.Tensor:
    """CumSum, forwards or backwards, with or without the element itself."""
    x, axis = call.tensor(0), int(call.known(1).reshape(-1)[0])
    backwards = bool(call.get("reverse", 0))
    x = torch.flip(x, [axis]) if backwards else x
    total = torch.cumsum(x, axis, dtype=x.dtype)
    total = total - x if call.get("exclusive", 0) else total
    return torch.flip(total, [axis]) if backwards else total


def cumulative_product(call: Call) -> torch.Tensor:
    """CumProd, forwards or backwards, with or without the element itself."""
    x, axis = call.tensor(0), int(call.known(1).reshape(-1)[0])
    backwards = bool(call.get("reverse", 0))
    x = torch.flip(x, [axis]) if backwards else x
    if call.get("exclusive", 0):
        x = torch.cat([torch.ones_like(x.narrow(axis, 0, 1)), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    total = torch.cumprod(x, axis, dtype=x.dtype)
    return torch.flip(total, [axis]) if backwards else total


def top_k(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest or smallest with their places."""
    k = int(call.known(1).reshape(-1)[0]) if call.has(1) else int(call.get("k"))
    values, places = torch.topk(
        call.tensor(0), k, dim=call.get("axis", -1), largest=bool(call.get("largest", 1)), sorted=True
    )
    return values, places


OPERATORS: dict[str, Operator] = {
    "ReduceSum": _reduce(_sum),
    "ReduceMean": _reduce(_mean),
    "ReduceMax": _reduce(lambda x, axes, keep: _extreme(torch.amax, x, axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: _extreme(torch.amin, x, axes, keep)),
    "ReduceProd": _reduce(_product),
    "ReduceL1": _reduce(lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: _sum(_float(x).square(), axes, keep).sqrt()),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: _sum(x.square(), axes, keep)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: _sum(_float(x), axes, keep).log()),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: _plain(torch.logsumexp)(_float(x), axes, keep)),
    "ArgMax": arg(torch.argmax),
    "ArgMin": arg(torch.argmin),
    "CumSum": cumulative,
    "CumProd": cumulative_product,
    "TopK": top_k,
}


def _extreme(function: Callable[..., Any], x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    if not axes:
        return x
    if x.dtype == torch.bool:
        return _extreme(function, x.to(torch.uint8), axes, keep)
    if not x.numel():
        # The identity: the least of nothing is the largest value that there is.
        limits = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
        least, most = (-math.inf, math.inf) if x.is_floating_point() else (limits.min, limits.max)
        return torch.full_like(x.sum(axes, keepdim=keep), least if function is torch.amax else most)
    result: torch.Tensor = function(x, axes, keepdim=keep)
    return result
