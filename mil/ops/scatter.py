"""Writing values at computed places: each kind of scatter is one write of rows into a flattened copy."""

from __future__ import annotations

import numpy as np
import torch

from ...targets.errors import SourceUnreadable
from ..program import Operation, UnknownOperator
from ..values import Inputs, OpFunction, Tensor
from .checks import axis_of, indices_of
from .gather import rows_of


def scatter(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Slices of `updates` on `axis` written to the places `indices` of the same axis of `data`."""
    data, indices, updates = x["data"], x["indices"], x["updates"]
    axis = axis_of(x.integer("axis", 0), data.dim(), op)
    rows = indices_of(indices, data.shape[axis], op, x).reshape(-1)
    _same(op, updates, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))
    values = updates.reshape(*data.shape[:axis], rows.numel(), *data.shape[axis + 1 :])
    written = _write(op, data.movedim(axis, 0), rows, values.movedim(axis, 0), _mode(x))
    return (written.movedim(0, axis),)


def scatter_along_axis(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Each element of `updates` written to the place that differs from its own in `axis` only."""
    data, indices, updates = x["data"], x["indices"], x["updates"]
    axis = axis_of(x.integer("axis", 0), data.dim(), op)
    _same(op, updates, indices.shape)
    _same(op, indices, (*data.shape[:axis], *indices.shape[axis : axis + 1], *data.shape[axis + 1 :]))
    places = torch.arange(data.numel()).reshape(data.shape)
    rows = torch.take_along_dim(places, indices_of(indices, data.shape[axis], op, x), dim=axis)
    written = _write(op, data.reshape(-1), rows.reshape(-1), updates.reshape(-1), _mode(x))
    return (written.reshape(data.shape),)


def scatter_nd(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Slices of `updates` written to the coordinates in the last axis of `indices`."""
    data, indices, updates = x["data"], x["indices"], x["updates"]
    rest = data.shape[indices.shape[-1] :]
    rows = rows_of(indices, data.shape, op, x).reshape(-1)
    _same(op, updates, (*indices.shape[:-1], *rest))
    written = _write(op, data.reshape(-1, *rest), rows, updates.reshape(-1, *rest), _mode(x))
    return (written.reshape(data.shape),)


def _mode(x: Inputs) -> str:
    # The documentation says "update", the definition "add"; packages that coremltools wrote hold the mode itself.
    return x.text("mode", "add")


def _same(op: Operation, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != tuple(shape):
        raise SourceUnreadable(
            f"updates or indices of shape {list(value.shape)} instead of {list(shape)}", where=op.name
        )


REDUCTIONS = {"mul": np.multiply, "max": np.maximum, "min": np.minimum, "div": np.divide}
"""MIL's modes as the NumPy functions that are applied value by value."""


def _write(op: Operation, data: Tensor, rows: Tensor, values: Tensor, mode: str) -> Tensor:
    """A copy of `data` with `values[i]` combined into row `rows[i]`, in this order where a row comes twice."""
    result = data.clone(memory_format=torch.contiguous_format)
    if mode == "update":
        # NumPy promises that the last of several values for one place stays; torch promises nothing.
        result.numpy()[rows.numpy()] = np.ascontiguousarray(values.numpy())
        return result
    if mode in ("add", "sub"):
        return result.index_add_(0, rows, values, alpha=1 if mode == "add" else -1)
    if mode in REDUCTIONS:
        whole = mode == "div" and not data.is_floating_point()
        combine = np.floor_divide if whole else REDUCTIONS[mode]
        combine.at(result.numpy(), rows.numpy(), np.ascontiguousarray(values.numpy()))
        return result
    raise UnknownOperator.at(op.name, f"{op.type} with mode={mode}")


OPS: dict[str, OpFunction] = {
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
}
