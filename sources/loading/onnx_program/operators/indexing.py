"""Reading and writing by indices."""

from __future__ import annotations

import math

import torch

from ..call import Call, Operator


def _wrapped(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Negative indices count from the end."""
    return torch.where(indices < 0, indices + size, indices)


def gather(call: Call) -> torch.Tensor:
    """Rows of `axis`, in the shape of the indices."""
    x, axis = call.tensor(0), call.get("axis", 0) % max(call.tensor(0).dim(), 1)
    indices = _wrapped(call.tensor(1).long(), x.shape[axis])
    flat = torch.index_select(x, axis, indices.reshape(-1))
    return flat.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def gather_elements(call: Call) -> torch.Tensor:
    """One element an index, along `axis`."""
    x, axis = call.tensor(0), call.get("axis", 0)
    return torch.gather(x, axis, _wrapped(call.tensor(1).long(), x.shape[axis]))


def gather_nd(call: Call) -> torch.Tensor:
    """Tuples of indices behind `batch_dims` axes."""
    x, indices, batch = call.tensor(0), call.tensor(1).long(), call.get("batch_dims", 0)
    depth = indices.shape[-1]
    lead = math.prod(x.shape[:batch])
    flat = x.reshape(lead, *x.shape[batch:])
    tuples = indices.reshape(lead, -1, depth)
    rows = torch.arange(lead).reshape(lead, 1).expand(lead, tuples.shape[1])
    places = [_wrapped(tuples[..., i], flat.shape[i + 1]) for i in range(depth)]
    found = flat[(rows, *places)]
    return found.reshape([*indices.shape[:-1], *x.shape[batch + depth :]])


def scatter_elements(call: Call) -> torch.Tensor:
    """The updates, put or combined along `axis`."""
    x, axis = call.tensor(0), call.get("axis", 0)
    indices, updates = _wrapped(call.tensor(1).long(), x.shape[axis]), call.tensor(2)
    how = call.get("reduction", "none")
    if how == "none":
        return torch.scatter(x, axis, indices, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return torch.scatter_reduce(x, axis, indices, updates, names[how], include_self=True)


def scatter_nd(call: Call) -> torch.Tensor:
    """The updates at tuples of indices."""
    x, indices, updates = call.tensor(0), call.tensor(1).long(), call.tensor(2)
    depth, how = indices.shape[-1], call.get("reduction", "none")
    sizes = list(x.shape[:depth])
    rest = math.prod(x.shape[depth:])
    place = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for axis, size in enumerate(sizes):
        place = place * size + _wrapped(indices[..., axis], size)
    rows = place.reshape(-1, 1).expand(-1, rest)
    flat = x.reshape(math.prod(sizes), rest)
    values = updates.reshape(-1, rest)
    if how == "none":
        return torch.scatter(flat, 0, rows, values).reshape(x.shape)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return torch.scatter_reduce(flat, 0, rows, values, names[how], include_self=True).reshape(x.shape)


def one_hot(call: Call) -> torch.Tensor:
    """On and off values; indices beyond the depth are off everywhere."""
    indices, values, axis = call.tensor(0).long(), call.tensor(2), call.get("axis", -1)
    depth = int(call.known(1).reshape(-1)[0])
    axis = axis % (indices.dim() + 1)
    shape = [1] * (indices.dim() + 1)
    shape[axis] = depth
    hit = _wrapped(indices, depth).unsqueeze(axis) == torch.arange(depth).reshape(shape)
    return torch.where(hit, values[1], values[0])


def compress(call: Call) -> torch.Tensor:
    """Rows that a known condition keeps."""
    x, axis = call.tensor(0), call.get("axis")
    keep = torch.from_numpy(call.known(1).reshape(-1).nonzero()[0])
    return torch.index_select(x.reshape(-1) if axis is None else x, axis or 0, keep)


def tensor_scatter(call: Call) -> torch.Tensor:
    """A cache with new rows from each sample's own place on, around the end where it is circular."""
    cache, update = call.tensor(0), call.tensor(1)
    axis = call.get("axis", -2) % cache.dim()
    first = call.tensor(2).long() if call.has(2) else torch.zeros(cache.shape[0], dtype=torch.int64)
    places = first[:, None] + torch.arange(update.shape[axis])
    places = places % cache.shape[axis] if call.get("mode", "linear") == "circular" else places
    shape = [cache.shape[0]] + [1] * (cache.dim() - 1)
    shape[axis] = update.shape[axis]
    return torch.scatter(cache, axis, places.reshape(shape).expand(update.shape), update)


def reverse_sequence(call: Call) -> torch.Tensor:
    """The first elements of each sequence, in reverse."""
    x, lengths = call.tensor(0), call.tensor(1).long()
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    moved = x.movedim((batch, time), (0, 1))
    steps = torch.arange(moved.shape[1]).reshape(1, -1)
    places = torch.where(steps < lengths.reshape(-1, 1), lengths.reshape(-1, 1) - 1 - steps, steps)
    index = places.reshape([*places.shape] + [1] * (moved.dim() - 2)).expand(moved.shape)
    return torch.gather(moved, 1, index).movedim((0, 1), (batch, time))


OPERATORS: dict[str, Operator] = {
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd, "Scatter": scatter_elements,
    "ScatterElements": scatter_elements, "ScatterND": scatter_nd, "OneHot": one_hot, "Compress": compress,
    "ReverseSequence": reverse_sequence, "TensorScatter": tensor_scatter,
}  # fmt: skip
