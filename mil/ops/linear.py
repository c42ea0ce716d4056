"""Products of matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...targets.errors import SourceUnreadable
from ..program import Operation
from ..values import Inputs, OpFunction, Tensor


def linear(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x [*, D_in] with weight [D_out, D_in]: x weight^T + bias."""
    return (F.linear(x["x"], x["weight"], x.optional("bias")),)


def matmul(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """NumPy's matmul, with the last two axes of x or y exchanged before."""
    left, right = x["x"], x["y"]
    if x.flag("transpose_x", False) and left.dim() > 1:
        left = left.transpose(-1, -2)
    if x.flag("transpose_y", False) and right.dim() > 1:
        right = right.transpose(-1, -2)
    return (torch.matmul(left, right),)


def einsum(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The equations that MIL knows (nchw,nwhu->nchu and chw,whr->chr), and any other of letters."""
    equation = x.text("equation").replace(" ", "")
    if not all(sign.isalpha() or sign in ",->" for sign in equation):
        raise SourceUnreadable(f"{equation[:80]!r} is no equation", where=f"operation {op.name}: equation")
    return (torch.einsum(equation, *x.many("values")),)


OPS: dict[str, OpFunction] = {"linear": linear, "matmul": matmul, "einsum": einsum}
