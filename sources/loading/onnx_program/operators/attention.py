"""Attention, where torch has it as one operator; the standard writes out all other forms."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..call import Call, Operator

PLAIN = frozenset({"is_causal", "scale", "qk_matmul_output_mode"})
"""Attributes that do not change the form."""


def attention(call: Call) -> torch.Tensor:
    """Over float32 (batch, heads, tokens, width), without cache, soft cap, windows or scores as an output."""
    q, k, v = call.tensor(0), call.tensor(1), call.tensor(2)
    mask = call.tensor(3) if call.has(3) else None
    causal = bool(call.get("is_causal", 0))
    others = {name for name, value in call.attributes.items() if value and name not in PLAIN}
    odd_mask = mask is not None and (causal or mask.dim() < 2 or mask.shape[-1] != k.shape[2])
    if (
        others or odd_mask or call.outputs > 1 or any(call.has(index) for index in range(4, len(call.inputs)))
        or q.dim() != 4 or q.dtype != torch.float32 or (causal and q.shape[2] != k.shape[2])
    ):  # fmt: skip
        raise call.refuse("in this form")
    if k.shape[1] != q.shape[1]:
        k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=call.get("scale"))


OPERATORS: dict[str, Operator] = {"Attention": attention}
