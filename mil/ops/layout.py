"""Elements moved between axes, windows, and reversed orders: nothing is computed, only placed."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...targets.errors import SourceUnreadable
from ..program import Operation
from ..values import Inputs, OpFunction, Tensor, bounded
from .checks import axes_of, axis_of


def reverse(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The elements on `axes` (default: all) in reverse order."""
    data = x["x"]
    return (data.flip(axes_of(x.integers("axes", range(data.dim())), data.dim(), op)),)


def reverse_sequence(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """On `seq_axis`, the first `lengths[i]` elements of slice i of `batch_axis` in reverse order."""
    data, lengths = x["x"], x["lengths"].long()
    sequence = axis_of(x.integer("seq_axis", 0), data.dim(), op)
    batch = axis_of(x.integer("batch_axis", 0), data.dim(), op)
    if sequence == batch or lengths.shape != data.shape[batch : batch + 1]:
        raise SourceUnreadable(f"lengths {list(lengths.shape)} for {list(data.shape)}", where=op.name)
    size = data.shape[sequence]
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= size:
        raise SourceUnreadable(f"lengths beyond an axis of {size}", where=op.name)
    places = torch.arange(size)
    turned = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    moved = data.movedim((batch, sequence), (0, 1))
    rows = turned.reshape(*turned.shape, *[1] * (data.dim() - 2))
    return (torch.take_along_dim(moved, rows, dim=1).movedim((0, 1), (batch, sequence)),)


def pixel_shuffle(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Channels into f x f blocks of pixels, as torch: a channel's block lies in neighbouring channels."""
    return (F.pixel_shuffle(x["x"], x.integer("upscale_factor")),)


def pixel_unshuffle(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """f x f blocks of pixels into channels, as torch."""
    return (F.pixel_unshuffle(x["x"], x.integer("downscale_factor")),)


def depth_to_space(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Channels into blocks of pixels, as TensorFlow: a block's pixel lies in neighbouring channels."""
    data, block = x["x"], x.integer("block_size")
    batch, channels, height, width = data.shape
    if block < 1 or channels % block**2:
        raise SourceUnreadable(f"block_size {block} of {channels} channels", where=op.name)
    parts = data.reshape(batch, block, block, channels // block**2, height, width)
    return (
        parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // block**2, height * block, width * block),
    )


def space_to_depth(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Blocks of pixels into channels, as TensorFlow."""
    data, block = x["x"], x.integer("block_size")
    batch, channels, height, width = data.shape
    if block < 1 or height % block or width % block:
        raise SourceUnreadable(f"block_size {block} of {height} x {width} pixels", where=op.name)
    parts = data.reshape(batch, channels, height // block, block, width // block, block)
    return (
        parts.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * block**2, height // block, width // block),
    )


def space_to_batch(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Blocks of the padded image into the batch: the place in the block counts first, then the sample."""
    data, (rows, columns) = x["x"], x.integers("block_shape")
    (top, bottom, left, right) = x.integers("paddings")
    batch, channels, height, width = data.shape
    shape = bounded((batch, channels, height + top + bottom, width + left + right), op.name)
    if min(rows, columns) < 1 or min(top, bottom, left, right) < 0 or shape[2] % rows or shape[3] % columns:
        raise SourceUnreadable(
            f"blocks of {rows} x {columns} of {shape[2]} x {shape[3]} pixels", where=op.name
        )
    padded = F.pad(data, (left, right, top, bottom))
    parts = padded.reshape(batch, channels, shape[2] // rows, rows, shape[3] // columns, columns)
    result = parts.permute(3, 5, 0, 1, 2, 4)
    return (result.reshape(batch * rows * columns, channels, shape[2] // rows, shape[3] // columns),)


def batch_to_space(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The batch into blocks of pixels, and the result cropped: what undoes `space_to_batch`."""
    data, (rows, columns) = x["x"], x.integers("block_shape")
    (top, bottom, left, right) = x.integers("crops")
    batch, channels, height, width = data.shape
    if min(rows, columns) < 1 or batch % (rows * columns) or min(top, bottom, left, right) < 0:
        raise SourceUnreadable(f"blocks of {rows} x {columns} of a batch of {batch}", where=op.name)
    parts = data.reshape(rows, columns, batch // (rows * columns), channels, height, width)
    whole = parts.permute(2, 3, 4, 0, 5, 1).reshape(-1, channels, height * rows, width * columns)
    return (whole[:, :, top : height * rows - bottom, left : width * columns - right],)


def sliding_windows(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """All windows of `size` on `axis`, `stride` apart, on a new axis behind it."""
    data, size, stride = x["x"], x.integer("size"), x.integer("stride", 1)
    axis = axis_of(x.integer("axis"), data.dim(), op)
    if not 1 <= size <= data.shape[axis] or stride < 1:
        raise SourceUnreadable(f"windows of {size}, {stride} apart, of {data.shape[axis]}", where=op.name)
    return (data.unfold(axis, size, stride).movedim(-1, axis + 1),)


OPS: dict[str, OpFunction] = {
    "batch_to_space": batch_to_space,
    "depth_to_space": depth_to_space,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "reverse": reverse,
    "reverse_sequence": reverse_sequence,
    "sliding_windows": sliding_windows,
    "space_to_batch": space_to_batch,
    "space_to_depth": space_to_depth,
}
