"""Convolutions of 1 to 3 spatial axes and their transposes, through torch's."""

from __future__ import annotations

import torch.nn.functional as F

from ...targets.errors import SourceUnreadable
from ..program import Operation
from ..values import Inputs, OpFunction, Tensor, bounded
from .windows import flat, paddings, spatial

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _axes(op: Operation, x: Inputs) -> int:
    axes: int = x["x"].dim() - 2
    if axes not in _CONVOLUTIONS or x["weight"].dim() != axes + 2:
        ranks = f"{x['x'].dim()} and {x['weight'].dim()}"
        raise SourceUnreadable(
            f"input and weight have {ranks} axes, 3 to 5 are expected", where=f"operation {op.name}"
        )
    return axes


def conv(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x [n, C_in, *size] with weight [C_out, C_in / groups, *kernel]."""
    axes = _axes(op, x)
    strides, dilations = spatial(x, "strides", axes), spatial(x, "dilations", axes)
    data, weight, kernel = x["x"], x["weight"], x["weight"].shape[2:]
    pads = paddings(op, x, kernel, strides, dilations)
    padded = (size + sum(pair) for size, pair in zip(data.shape[2:], pads, strict=True))
    bounded((*data.shape[:2], *padded), f"operation {op.name}: pad")
    symmetric = all(before == after for before, after in pads)
    if not symmetric:
        data = F.pad(data, flat(pads))
    padding = [before for before, _ in pads] if symmetric else 0
    groups = x.integer("groups", 1)
    return (_CONVOLUTIONS[axes](data, weight, x.optional("bias"), strides, padding, dilations, groups),)


def conv_transpose(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x [n, C_in, *size] with weight [C_in, C_out / groups, *kernel]: the full result, cut to the output's size.

    `custom` cuts `pad` at each end; `same` keeps size * stride elements (with `output_shape`, that many), the odd one
    cut after. Where the output is larger than the full result, it is zero (plus bias) there.
    """
    axes = _axes(op, x)
    strides, dilations = spatial(x, "strides", axes), spatial(x, "dilations", axes)
    data, weight, kernel = x["x"], x["weight"], x["weight"].shape[2:]
    sizes = zip(data.shape[2:], strides, kernel, dilations, strict=True)
    full = [(size - 1) * stride + (width - 1) * dilation + 1 for size, stride, width, dilation in sizes]
    channels = weight.shape[1] * x.integer("groups", 1)
    bounded((data.shape[0], channels, *full), f"operation {op.name}: strides")
    result = _TRANSPOSED[axes](data, weight, None, strides, 0, 0, x.integer("groups", 1), dilations)
    cuts = _cuts(op, x, full, strides)
    if any(before or after for before, after in cuts):
        bounded((data.shape[0], channels, *result.shape[2:]), f"operation {op.name}: output_shape")
        result = F.pad(result, flat([(-before, -after) for before, after in cuts]))
    bias = x.optional("bias")
    return (result if bias is None else result + bias.reshape(-1, *[1] * axes),)


def _cuts(op: Operation, x: Inputs, full: list[int], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Elements to cut (negative: to add) before and after each axis of the full result."""
    kind = x.text("pad_type", "valid").lower()
    wanted: list[int] = []
    if x.optional("output_shape") is not None:
        wanted = list(x.integers("output_shape")[-len(full) :])
        bounded(wanted, f"operation {op.name}: output_shape")
    elif kind == "same":
        wanted = [size * stride for size, stride in zip(x["x"].shape[2:], strides, strict=True)]
    if kind in ("custom", "valid"):
        pads = paddings(op, x, full, strides, strides)
        if not wanted:
            return pads
        before = [first for first, _ in pads]
    else:
        before = [max(0, size - want) // 2 for size, want in zip(full, wanted, strict=True)]
    return [(first, size - first - want) for first, size, want in zip(before, full, wanted, strict=True)]


OPS: dict[str, OpFunction] = {"conv": conv, "conv_transpose": conv_transpose}
