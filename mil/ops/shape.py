"""Operators that move, cut, join or repeat values without computing new ones, and the states."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ...targets.errors import SourceUnreadable
from ..program import Operation, UnknownOperator
from ..values import Inputs, OpFunction, Tensor, bounded


def _where(op: Operation, name: str) -> str:
    return f"operation {op.name}: {name}"


def reshape(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x with the sizes `shape`: 0 keeps the size of the same axis of x, one -1 takes what is left.

    Axes are the same counted from the last one; a 0 before the first of x is 1 (iOS17; before, both have one length).
    """
    data, sizes = x["x"], list(x.integers("shape"))
    for axis in range(-len(sizes), 0):
        if sizes[axis] == 0 and data.numel():
            sizes[axis] = data.shape[axis] if -axis <= data.dim() else 1
    return (data.reshape(sizes),)


def reshape_like(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x with the sizes begins[i]:ends[i] of each reference tensor (to its last one where end_masks[i])."""
    sizes: list[int] = []
    parts = (x.many("ref_tensors"), x.many("begins"), x.many("ends"), x.many("end_masks"))
    for reference, begin, end, mask in zip(*parts, strict=True):
        sizes.extend(reference.shape[int(begin) : None if bool(mask) else int(end)])
    return (x["x"].reshape(sizes),)


def transpose(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x with its axes in the order `perm`."""
    return (x["x"].permute(x.integers("perm")),)


def expand_dims(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x with axes of size 1, which stand at `axes` of the result."""
    data, axes = x["x"], x.integers("axes")
    rank = data.dim() + len(axes)
    places = {axis % rank for axis in axes if -rank <= axis < rank}
    if len(places) != len(axes):
        raise SourceUnreadable(f"{list(axes)} are no axes of {rank}", where=_where(op, "axes"))
    sizes = iter(data.shape)
    return (data.reshape([1 if axis in places else next(sizes) for axis in range(rank)]),)


def squeeze(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x without its axes of size 1 (those of `axes`, where given; larger ones stay)."""
    if x.optional("axes") is None:
        return (x["x"].squeeze(),)
    return (x["x"].squeeze(x.integers("axes")),)


def flatten2d(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x as a matrix: the axes before `axis`, and those from it on."""
    axis = x.integer("axis", 1)
    return (x["x"].reshape(math.prod(x["x"].shape[:axis]), math.prod(x["x"].shape[axis:])),)


def concat(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The values one after the other along `axis`, or element by element in turn with `interleave`."""
    values, axis = x.many("values"), x.integer("axis")
    if values[0].dim() == 0:
        return (torch.stack(values),)
    if not x.flag("interleave", False):
        return (torch.cat(values, axis),)
    axis %= values[0].dim()
    return (torch.stack(values, axis + 1).flatten(axis, axis + 1),)


def stack(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The values along a new axis."""
    return (torch.stack(x.many("values"), x.integer("axis")),)


def split(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x cut along `axis` into `split_sizes`, or into `num_splits` parts of one size."""
    data, axis = x["x"], x.integer("axis")
    if x.optional("split_sizes") is not None:
        return tuple(torch.split(data, x.integers("split_sizes"), axis))
    count = x.integer("num_splits")
    if count < 1 or data.shape[axis] % count:
        fact = f"{data.shape[axis]} elements do not make {count} parts of one size"
        raise SourceUnreadable(fact, where=_where(op, "num_splits"))
    return tuple(torch.split(data, data.shape[axis] // count or 1, axis))


def slices(op: Operation, x: Inputs) -> list[slice | int]:
    """The index of each axis, NumPy's meaning: begin, end and stride, with the masks of `slice_by_index`."""
    rank = x["x"].dim()
    begin, end = x.integers("begin"), x.integers("end")
    stride = x.integers("stride", (1,) * rank)
    none = (False,) * rank
    masks = (x.flags("begin_mask", none), x.flags("end_mask", none), x.flags("squeeze_mask", none))
    if any(len(given) != rank for given in (begin, end, stride, *masks)) or 0 in stride:
        fact = (
            f"begin {list(begin)}, end {list(end)}, stride {list(stride)} do not cut a tensor of {rank} axes"
        )
        raise SourceUnreadable(fact, where=_where(op, "begin"))
    found: list[slice | int] = []
    for axis, (no_begin, no_end, single) in enumerate(zip(*masks, strict=True)):
        first = None if no_begin else begin[axis]
        found.append((first or 0) if single else slice(first, None if no_end else end[axis], stride[axis]))
    return found


def _cut(data: Tensor, index: list[slice | int]) -> Tensor:
    """data[index] as NumPy has it: torch itself knows no negative strides."""
    axis = 0
    for entry in index:
        if isinstance(entry, int):
            data = data.select(axis, entry)
            continue
        first, last, step = entry.indices(data.shape[axis])
        if step > 0:
            data = data[(slice(None),) * axis + (slice(first, max(first, last), step),)]
        else:
            data = data.index_select(axis, torch.arange(first, min(first, last), step))
        axis += 1
    return data


def slice_by_index(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x[begin:end:stride, ...]; an axis of `squeeze_mask` is indexed by its begin and goes."""
    return (_cut(x["x"], slices(op, x)),)


def slice_update(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x with x[begin:end:stride, ...] replaced by `update`."""
    # Where each element of the cut lies in x: so that every form of index is written as it is read.
    places = _cut(torch.arange(x["x"].numel()).reshape(x["x"].shape), slices(op, x)).reshape(-1)
    result = x["x"].reshape(-1).clone()
    result[places] = x["update"].to(result.dtype).reshape(-1)
    return (result.reshape(x["x"].shape),)


def slice_by_size(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """`size` elements from `begin` on each axis; all that are left where size is -1."""
    data = x["x"]
    for axis, (begin, size) in enumerate(zip(x.integers("begin"), x.integers("size"), strict=True)):
        first = begin + data.shape[axis] if begin < 0 else begin
        length = data.shape[axis] - first if size == -1 else size
        data = data.narrow(axis, first, length)
    return (data,)


def pad(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x with pad[2i] elements before and pad[2i+1] after the i-th of its last axes."""
    data, mode, sizes = x["x"], x.text("mode", "constant"), x.integers("pad")
    if len(sizes) % 2 or len(sizes) > 2 * data.dim() or min(sizes, default=0) < 0:
        fact = f"{list(sizes)} is no padding of {data.dim()} axes"
        raise SourceUnreadable(fact, where=_where(op, "pad"))
    pairs = [(0, 0)] * (data.dim() - len(sizes) // 2) + list(zip(sizes[::2], sizes[1::2], strict=True))
    bounded((n + sum(pair) for n, pair in zip(data.shape, pairs, strict=True)), _where(op, "pad"))
    if mode == "constant":
        value = x.number("constant_val", 0.0)
        return (F.pad(data, [size for pair in reversed(pairs) for size in pair], value=value),)
    if mode not in ("reflect", "replicate"):
        raise UnknownOperator.at(op.name, f"pad with mode={mode}")
    for axis, (before, after) in enumerate(pairs):
        if not before and not after:
            continue
        last = data.shape[axis] - 1
        places = torch.arange(-before, last + 1 + after)
        places = places.clamp(0, last) if mode == "replicate" else last - (last - places.abs()).abs()
        data = data.index_select(axis, places)
    return (data,)


def tile(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """x repeated `reps` times along each axis."""
    reps = x.integers("reps")
    bounded(reps, _where(op, "reps"))
    bounded((n * r for n, r in zip(x["x"].shape, reps, strict=True)), _where(op, "reps"))
    return (x["x"].repeat(reps),)


def shape(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The sizes of x as a vector."""
    return (torch.tensor(x["x"].shape, dtype=torch.int32),)


def fill(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """A tensor of `shape` that holds `value` everywhere."""
    return (_filled(bounded(x.integers("shape"), _where(op, "shape")), x),)


def fill_like(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """A tensor of the sizes of `ref_tensor` that holds `value` everywhere."""
    return (_filled(tuple(x["ref_tensor"].shape), x),)


def _filled(sizes: tuple[int, ...], x: Inputs) -> Tensor:
    value = x.optional("value")
    return torch.zeros(sizes) if value is None else torch.full(sizes, value.item(), dtype=value.dtype)


def read_state(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """A copy of the state `input`."""
    return (x["input"].clone(),)


def write_state(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Replaces what the state `input` holds by `data`: the one operator that writes into an input."""
    x["input"].copy_(x["data"])
    return ()


OPS: dict[str, OpFunction] = {
    "concat": concat,
    "expand_dims": expand_dims,
    "fill": fill,
    "fill_like": fill_like,
    "flatten2d": flatten2d,
    "pad": pad,
    "read_state": read_state,
    "reshape": reshape,
    "reshape_like": reshape_like,
    "shape": shape,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "slice_update": slice_update,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
    "write_state": write_state,
}
