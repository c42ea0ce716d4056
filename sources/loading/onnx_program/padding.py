"""ONNX's explicit and automatic padding of convolutions and pools as torch takes it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .call import Call


def amounts(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis, from `pads` or `auto_pad`."""
    rank = len(kernel)
    mode = call.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = list(call.get("pads") or [0] * (2 * rank))
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if mode == "VALID":
        return [(0, 0)] * rank
    found = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return found


def flat(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """As torch.nn.functional.pad takes it: the last axis first."""
    return [amount for pair in reversed(pairs) for amount in pair]
