"""Convolutions and their transposes, over one to three spatial axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .. import padding
from ..call import Call, Operator

FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(call: Call) -> torch.Tensor:
    """Over the spatial axes of the first input."""
    return over(call, call.tensor(0), call.tensor(1), call.tensor(2) if call.has(2) else None)


def over(call: Call, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The convolution that the node's attributes say; uneven padding is done apart."""
    rank = x.dim() - 2
    if rank not in FORWARD:
        raise call.refuse(f"over {rank} spatial axes")
    strides = list(call.get("strides") or [1] * rank)
    dilations = list(call.get("dilations") or [1] * rank)
    pads = padding.amounts(call, list(x.shape[2:]), list(weight.shape[2:]), strides, dilations)
    even = all(before == after for before, after in pads)
    if not even:
        x = F.pad(x, padding.flat(pads))
    return FORWARD[rank](
        x,
        weight,
        bias,
        stride=strides,
        padding=[before for before, _ in pads] if even else 0,
        dilation=dilations,
        groups=call.get("group", 1),
    )


def conv_transpose(call: Call) -> torch.Tensor:
    """The whole result is computed without padding, and cut; `output_shape` and `auto_pad` say how much."""
    x, weight = call.tensor(0), call.tensor(1)
    rank = x.dim() - 2
    if rank not in TRANSPOSED:
        raise call.refuse(f"over {rank} spatial axes")
    strides = list(call.get("strides") or [1] * rank)
    dilations = list(call.get("dilations") or [1] * rank)
    extra = list(call.get("output_padding") or [0] * rank)
    whole = TRANSPOSED[rank](
        x, weight, call.tensor(2) if call.has(2) else None, stride=strides, dilation=dilations,
        groups=call.get("group", 1),
    )  # fmt: skip
    if call.get("output_shape") is not None:
        target = list(call.get("output_shape"))[-rank:]
        extra = [max(size - made, 0) for size, made in zip(target, whole.shape[2:], strict=True)]
    pads = _cut(call, x, whole, strides, extra, rank)
    # Beyond the last product there is the bias alone.
    for axis in range(rank):
        if extra[axis]:
            whole = _extended(call, whole, axis + 2, extra[axis])
    for axis, (before, after) in enumerate(pads):
        whole = whole.narrow(axis + 2, before, whole.shape[axis + 2] - before - after)
    return whole


def _cut(
    call: Call, x: torch.Tensor, whole: torch.Tensor, strides: list[int], extra: list[int], rank: int
) -> list[tuple[int, int]]:
    wanted, mode = call.get("output_shape"), call.get("auto_pad", "NOTSET")
    if wanted is None and mode in ("NOTSET", "", "VALID"):
        pads = list(call.get("pads") or [0] * (2 * rank)) if mode != "VALID" else [0] * (2 * rank)
        return list(zip(pads[:rank], pads[rank:], strict=True))
    target = (
        list(wanted)[-rank:]
        if wanted is not None
        else [s * t for s, t in zip(x.shape[2:], strides, strict=True)]
    )
    pairs = []
    for axis in range(rank):
        total = max(whole.shape[axis + 2] + extra[axis] - target[axis], 0)
        small, large = total // 2, total - total // 2
        pairs.append((large, small) if mode == "SAME_LOWER" else (small, large))
    return pairs


def _extended(call: Call, whole: torch.Tensor, axis: int, amount: int) -> torch.Tensor:
    shape = list(whole.shape)
    shape[axis] = amount
    tail = torch.zeros(shape, dtype=whole.dtype)
    if call.has(2):
        tail = tail + call.tensor(2).reshape([1, -1] + [1] * (whole.dim() - 2))
    return torch.cat([whole, tail], axis)


def col2im(call: Call) -> torch.Tensor:
    """Columns of blocks, summed back into an image of two axes."""
    image, block = call.ints(1) or [], call.ints(2) or []
    pads = list(call.get("pads") or [0] * (2 * len(image)))
    if len(image) != 2:
        raise call.refuse(f"over {len(image)} spatial axes")
    whole = [size + pads[axis] + pads[axis + 2] for axis, size in enumerate(image)]
    made = F.fold(
        call.tensor(0), whole, block, dilation=call.get("dilations") or 1, stride=call.get("strides") or 1
    )
    return made[:, :, pads[0] : pads[0] + image[0], pads[1] : pads[1] + image[1]]


OPERATORS: dict[str, Operator] = {"Conv": conv, "ConvTranspose": conv_transpose, "Col2Im": col2im}
