"""Attention as one operator (iOS18)."""

from __future__ import annotations

import math

import torch

from ..program import Operation
from ..values import Inputs, OpFunction, Tensor


def scaled_dot_product_attention(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """softmax(query @ key^T / sqrt(E) + attn_mask) @ value; a bool mask says what takes part."""
    query, key, mask = x["query"], x["key"], x.optional("attn_mask")
    scores = torch.matmul(query / math.sqrt(query.shape[-1]), key.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return (torch.matmul(scores.softmax(dim=-1), x["value"]),)


OPS: dict[str, OpFunction] = {"scaled_dot_product_attention": scaled_dot_product_attention}
