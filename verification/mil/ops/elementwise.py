"""Operators that work element by element, binary ones with NumPy's broadcasting."""

from __future__ import annotations

import torch

from ..program import Operation
from ..values import Inputs, OpFunction, Tensor


def add(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x + y."""
    return (torch.add(x["x"], x["y"]),)


OPS: dict[str, OpFunction] = {"add": add}
