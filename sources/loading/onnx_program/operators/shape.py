"""What moves values without changing them, and what makes them from shapes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..call import Call, Operator
from ..dtypes import dtype_of


def shape_of(call: Call) -> np.ndarray:
    """The sizes of the input between `start` and `end`: known, since a program's shapes are fixed."""
    sizes = list(call.tensor(0).shape)
    return np.array(sizes[call.get("start", 0) : call.get("end", len(sizes))], np.int64)


def reshape(call: Call) -> torch.Tensor:
    """0 keeps a size unless allowzero is set."""
    x, wanted = call.tensor(0), call.ints(1, "shape") or []
    if call.get("allowzero", 0) and 0 in wanted:
        return x.reshape([size if size >= 0 else 0 for size in wanted])
    if not call.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def transpose(call: Call) -> torch.Tensor:
    """Reversed where no permutation is given."""
    x = call.tensor(0)
    return x.permute(list(call.get("perm") or range(x.dim() - 1, -1, -1)))


def flatten(call: Call) -> torch.Tensor:
    """Two axes: the product of the sizes before `axis`, and of the others."""
    x = call.tensor(0)
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(call: Call) -> torch.Tensor:
    """Axes of size 1 are removed: those named, or all."""
    x, axes = call.tensor(0), call.ints(1, "axes")
    if axes is None:
        return x.reshape([size for size in x.shape if size != 1])
    gone = {axis % x.dim() for axis in axes}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in gone])


def unsqueeze(call: Call) -> torch.Tensor:
    """Axes of size 1 are put in, counted in the result."""
    x, axes = call.tensor(0), call.ints(1, "axes") or []
    rank = x.dim() + len(axes)
    new = {axis % rank for axis in axes}
    sizes = iter(x.shape)
    return x.reshape([1 if axis in new else next(sizes) for axis in range(rank)])


def concat(call: Call) -> torch.Tensor:
    """Along `axis`."""
    return torch.cat(call.tensors(), call.get("axis", 0))


def split(call: Call) -> tuple[torch.Tensor, ...]:
    """Parts of the sizes given, or equal ones, the last smaller."""
    x, axis = call.tensor(0), call.get("axis", 0)
    sizes = call.ints(1, "split")
    if sizes is None:
        each = math.ceil(x.shape[axis] / call.outputs)
        sizes = [each] * (call.outputs - 1)
        sizes.append(x.shape[axis] - sum(sizes))
    return tuple(torch.split(x, sizes, axis))


def slice_(call: Call) -> torch.Tensor:
    """Starts and ends beyond an axis are cut to it; negative steps reverse."""
    x = call.tensor(0)
    starts, ends = call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes = call.ints(3, "axes") or list(range(len(starts)))
    steps = call.ints(4) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places = range(
            *slice(start, end if not _before_all(end, x.shape[axis], step) else None, step).indices(
                x.shape[axis]
            )
        )
        if step > 0:
            x = _cut(x, axis, places)
        else:
            x = torch.flip(_cut(x, axis, places[::-1]), [axis])
    return x


def _before_all(end: int, size: int, step: int) -> bool:
    """Whether a negative step runs over the first element: Python writes that as None."""
    return step < 0 and end < -size


def _cut(x: torch.Tensor, axis: int, places: range) -> torch.Tensor:
    index = [slice(None)] * x.dim()
    index[axis] = slice(places.start, places.stop if len(places) else places.start, places.step)
    return x[tuple(index)]


def expand(call: Call) -> torch.Tensor:
    """Broadcast both ways."""
    x, wanted = call.tensor(0), call.ints(1) or []
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(wanted)))


def tile(call: Call) -> torch.Tensor:
    """Repeated along each axis."""
    return call.tensor(0).repeat(call.ints(1, "repeats"))


def pad(call: Call) -> torch.Tensor:
    """Constant, reflect, edge or wrap; negative amounts cut."""
    x, amounts = call.tensor(0), call.ints(1, "pads") or []
    mode = call.get("mode", "constant")
    axes = call.ints(3) if call.has(3) else list(range(len(amounts) // 2))
    half = len(amounts) // 2
    value = 0.0
    if call.has(2):
        value = call.known(2).reshape(-1)[0].item()
    elif call.get("value") is not None:
        value = call.get("value")
    pairs = [(0, 0)] * x.dim()
    for index, axis in enumerate(axes or []):
        pairs[axis] = (amounts[index], amounts[half + index])
    if mode == "constant":
        return F.pad(x, [a for pair in reversed(pairs) for a in pair], value=value)
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            size = x.shape[axis]
            numbers = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode)
            numbers = numbers[max(-before, 0) : len(numbers) - max(-after, 0)]
            x = torch.index_select(x, axis, torch.from_numpy(numbers))
    return x


def constant_of_shape(call: Call) -> torch.Tensor:
    """One value everywhere."""
    value = call.get("value")
    filled = np.full(call.ints(0) or [], 0.0 if value is None else value.reshape(-1)[0])
    return torch.from_numpy(np.asarray(filled.astype(np.float32 if value is None else value.dtype)))


def depth_to_space(call: Call) -> torch.Tensor:
    """DCR or CRD."""
    x, block = call.tensor(0), call.get("blocksize")
    n, c, h, w = x.shape
    if call.get("mode", "DCR") == "DCR":
        parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // block**2, h * block, w * block)


def space_to_depth(call: Call) -> torch.Tensor:
    """Blocks of pixels become channels."""
    x, block = call.tensor(0), call.get("blocksize")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block)
    parts = (
        parts.permute(0, 3, 5, 1, 2, 4)
        if call.get("mode", "DCR") == "DCR"
        else parts.permute(0, 1, 3, 5, 2, 4)
    )
    return parts.reshape(n, c * block**2, h // block, w // block)


def trilu(call: Call) -> torch.Tensor:
    """The upper or the lower triangle."""
    x = call.tensor(0)
    k = int(call.known(1).reshape(-1)[0]) if call.has(1) else 0
    return torch.triu(x, k) if call.get("upper", 1) else torch.tril(x, k)


def eye_like(call: Call) -> torch.Tensor:
    """Ones on one diagonal."""
    x = call.tensor(0)
    wanted = dtype_of(call, call.get("dtype")) if call.get("dtype") else x.dtype
    k = call.get("k", 0)
    return torch.diag_embed(torch.ones(max(x.shape) + abs(k)), k)[: x.shape[0], : x.shape[1]].to(wanted)


def dropout(call: Call) -> tuple[torch.Tensor, ...]:
    """Nothing is dropped in inference."""
    x = call.tensor(0)
    if call.has(2) and call.known(2).any() and (not call.has(1) or call.known(1).any()):
        raise call.refuse("in training mode")
    return (x, torch.ones_like(x, dtype=torch.bool))[: call.outputs]


def arange(call: Call) -> np.ndarray:
    """Range: from start, below limit, in steps of delta."""
    start, limit, delta = (call.known(index).reshape(())[()] for index in range(3))
    count = max(math.ceil((float(limit) - float(start)) / float(delta)), 0)
    return np.asarray(start + np.arange(count).astype(start.dtype) * delta, start.dtype)


OPERATORS: dict[str, Operator] = {
    "Shape": shape_of,
    "Size": lambda call: np.array(math.prod(call.tensor(0).shape), np.int64), "Reshape": reshape,
    "Transpose": transpose, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Concat": concat,
    "Split": split, "Slice": slice_, "Expand": expand, "Tile": tile, "Pad": pad,
    "ConstantOfShape": constant_of_shape, "Identity": lambda call: call.tensor(0),
    "OptionalGetElement": lambda call: call.tensor(0), "OptionalHasElement": lambda call: np.array(call.has(0)),
    "Dropout": dropout, "Range": arange,
    "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth, "Trilu": trilu, "EyeLike": eye_like,
}  # fmt: skip
