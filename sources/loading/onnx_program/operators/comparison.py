"""Comparisons, logic and choice."""

from __future__ import annotations

from typing import Any

import torch

from ..call import Call, Operator
from ..dtypes import widened


def _binary(function: Any) -> Operator:
    safe = widened(function)
    return lambda call: safe(call.tensor(0), call.tensor(1))


def where(call: Call) -> torch.Tensor:
    """The second input where the first is true, else the third."""
    return torch.where(call.tensor(0), call.tensor(1), call.tensor(2))


def is_inf(call: Call) -> torch.Tensor:
    """Infinite of a sign that is asked for."""
    x = call.tensor(0)
    up = torch.isposinf(x) if call.get("detect_positive", 1) else torch.zeros_like(x, dtype=torch.bool)
    down = torch.isneginf(x) if call.get("detect_negative", 1) else torch.zeros_like(x, dtype=torch.bool)
    return up | down


OPERATORS: dict[str, Operator] = {
    "Equal": _binary(torch.eq), "Greater": _binary(torch.gt), "GreaterOrEqual": _binary(torch.ge),
    "Less": _binary(torch.lt), "LessOrEqual": _binary(torch.le), "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or), "Xor": _binary(torch.logical_xor),
    "Not": lambda call: torch.logical_not(call.tensor(0)), "Where": where, "IsInf": is_inf,
    "IsNaN": lambda call: torch.isnan(call.tensor(0)),
}  # fmt: skip
