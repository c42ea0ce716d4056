"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..call import Call, Operator


def gemm(call: Call) -> torch.Tensor:
    """alpha · A · B + beta · C, each of A and B transposed where asked for; as a linear layer where it is one."""
    a, b = call.tensor(0), call.tensor(1)
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    a = a.t() if call.get("transA", 0) else a
    bias = call.tensor(2) if call.has(2) else None
    if call.get("transB", 0) and alpha == 1 and beta == 1 and (bias is None or bias.dim() == 1):
        return F.linear(a, b, bias)
    product = torch.matmul(a, b.t() if call.get("transB", 0) else b)
    product = product if alpha == 1 else product * alpha
    return product if bias is None else product + (bias if beta == 1 else bias * beta)


def einsum(call: Call) -> torch.Tensor:
    """By its equation."""
    return torch.einsum(call.get("equation").replace(" ", ""), *call.tensors())


OPERATORS: dict[str, Operator] = {
    "MatMul": lambda call: torch.matmul(call.tensor(0), call.tensor(1)), "Gemm": gemm, "Einsum": einsum,
    "Det": lambda call: torch.linalg.det(call.tensor(0)),
}  # fmt: skip
