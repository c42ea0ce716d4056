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


def matmul_integer(call: Call) -> torch.Tensor:
    """8-bit integers less their zero points, summed in int32."""
    a, b = call.tensor(0).int(), call.tensor(1).int()
    if call.has(2):
        point = call.tensor(2).int()
        a = a - (point.reshape(-1, 1) if point.dim() == 1 and point.shape[0] > 1 else point)
    if call.has(3):
        b = b - call.tensor(3).int()
    return torch.matmul(a.double(), b.double()).to(torch.int32)


def attention(call: Call) -> torch.Tensor:
    """Attention of opset 23 over (batch, heads, tokens, width), without cache, soft cap or scores as output."""
    q, k, v = call.tensor(0), call.tensor(1), call.tensor(2)
    if call.outputs > 1 or call.has(4) or call.get("softcap") or q.dim() != 4:
        raise call.refuse("in this form")
    if k.shape[1] != q.shape[1]:
        k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=call.tensor(3) if call.has(3) else None,
        is_causal=bool(call.get("is_causal", 0)), scale=call.get("scale"),
    )  # fmt: skip


OPERATORS: dict[str, Operator] = {
    "MatMul": lambda call: torch.matmul(call.tensor(0), call.tensor(1)), "Gemm": gemm, "Einsum": einsum,
    "MatMulInteger": matmul_integer, "Attention": attention,
}  # fmt: skip
