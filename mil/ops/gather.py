"""Reading values at computed places."""

from __future__ import annotations

import torch

from ...targets.errors import SourceUnreadable
from ..program import Operation
from ..values import Inputs, OpFunction, Tensor, bounded
from .checks import axis_of, indices_of


def gather(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Slices of x at `indices` on `axis`, as tf.gather.

    Its shape is x.shape[:axis] + indices.shape[batch_dims:] + x.shape[axis + 1:].
    """
    data, batch = x["x"], x.integer("batch_dims", 0)
    axis = axis_of(x.integer("axis", 0), data.dim(), op)
    indices = indices_of(x["indices"], data.shape[axis], op, x)
    shape = bounded((*data.shape[:axis], *indices.shape[batch:], *data.shape[axis + 1 :]), op.name)
    if batch == 0:
        return (data.index_select(axis, indices.reshape(-1)).reshape(shape),)
    if not 0 < batch <= axis or indices.shape[:batch] != data.shape[:batch]:
        raise SourceUnreadable(
            f"batch_dims={batch} of x {list(data.shape)}, indices {list(indices.shape)} and axis {axis}",
            where=op.name,
        )
    rows = data.flatten(0, batch - 1) if batch > 1 else data
    chosen = indices.reshape(rows.shape[0], -1)
    taken = [row.index_select(axis - batch, places) for row, places in zip(rows, chosen, strict=True)]
    return (torch.stack(taken).reshape(shape) if taken else data.new_zeros(shape),)


def gather_along_axis(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """For each place of `indices`, the element of x that differs from it in `axis` only."""
    data = x["x"]
    axis = axis_of(x.integer("axis", 0), data.dim(), op)
    return (torch.take_along_dim(data, indices_of(x["indices"], data.shape[axis], op, x), dim=axis),)


def gather_nd(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Slices of x, each at the coordinates in the last axis of `indices`, as tf.gather_nd."""
    data, indices, batch = x["x"], x["indices"], x.integer("batch_dims", 0)
    if not 0 <= batch < indices.dim() or indices.shape[:batch] != data.shape[:batch]:
        raise SourceUnreadable(
            f"batch_dims={batch} of x {list(data.shape)} and indices {list(indices.shape)}", where=op.name
        )
    depth = batch + indices.shape[-1]
    rows = rows_of(indices, data.shape, op, x, batch)
    shape = bounded((*indices.shape[:-1], *data.shape[depth:]), op.name)
    flat = data.reshape(-1, *data.shape[depth:])
    return (flat.index_select(0, rows.reshape(-1)).reshape(shape),)


def rows_of(indices: Tensor, shape: torch.Size, op: Operation, x: Inputs, batch: int = 0) -> Tensor:
    """Coordinates in the last axis of `indices` as row numbers of a value of `shape`, its leading axes flattened.

    The first `batch` axes of `indices` are coordinates too: each batch reads its own part.
    """
    depth = indices.shape[-1]
    if batch + depth > len(shape):
        raise SourceUnreadable(f"{depth} coordinates for a value of shape {list(shape)}", where=op.name)
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for axis in range(batch):
        place = torch.arange(shape[axis]).reshape(-1, *[1] * (rows.dim() - axis - 1))
        rows = rows * shape[axis] + place
    for axis in range(depth):
        size = shape[batch + axis]
        rows = rows * size + indices_of(indices[..., axis], size, op, x)
    return rows


OPS: dict[str, OpFunction] = {
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
}
