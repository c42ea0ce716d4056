"""Resizing the last two (or `resized_dims`) axes by nearest neighbour or linear interpolation.

The sampling grids are those of `resize_bilinear`'s documentation. Two things it leaves open are settled by
coremltools' own tests, whose expectations hold on a Mac: `upsample_nearest_neighbor` reads place floor(i * in / out)
also where the scale is no integer, and `resize_nearest_neighbor` (and `resize`) floor((i + 1/2) * in / out).
"""

from __future__ import annotations

import numpy as np
import torch

from ...targets.errors import SourceUnreadable
from ..program import Operation, UnknownOperator
from ..values import Inputs, OpFunction, Tensor, bounded


def upsample_nearest_neighbor(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The last two axes times `scale_factor_height` and `scale_factor_width`, nearest neighbour."""
    result = x["x"]
    for axis, target in _checked(op, result, _scaled(op, x)).items():
        result = result.index_select(axis, torch.arange(target) * result.shape[axis] // target)
    return (result,)


def upsample_bilinear(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The last two axes times `scale_factor_height` and `scale_factor_width`, linear.

    The grid follows from the sizes alone, as torch's with `recompute_scale_factor=True`.
    """
    corners = x.flag("align_corners", True)
    half_pixel = x.flag("half_pixel_centers", not corners)
    if corners and half_pixel:
        raise UnknownOperator.at(op.name, "upsample_bilinear with align_corners and half_pixel_centers")
    mode = "STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS" if half_pixel else "DEFAULT"
    return (_linear(op, x["x"], _scaled(op, x), mode),)


def resize_nearest_neighbor(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The last two axes to a target size, nearest neighbour at the centres of the pixels."""
    return (_nearest(op, x["x"], _targets(x)),)


def resize_bilinear(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The last two axes to a target size, linear on the grid of `sampling_mode`."""
    return (_linear(op, x["x"], _targets(x), x.text("sampling_mode", "DEFAULT")),)


def resize(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The last `resized_dims` axes to the last sizes of `shape`; a size of 0 keeps the axis (iOS17)."""
    data, shape, count = x["x"], x.integers("shape"), x.integer("resized_dims")
    if not 0 <= count <= min(len(shape), data.dim()):
        raise SourceUnreadable(f"resized_dims is {count} of {len(shape)} sizes", where=op.name)
    sizes = shape[len(shape) - count :]
    targets = {place - count: size or data.shape[place - count] for place, size in enumerate(sizes)}
    interpolation, sampling = x.text("interpolation_mode", "LINEAR"), x.text("sampling_mode", "DEFAULT")
    if interpolation == "NEAREST_NEIGHBOR" and sampling == "DEFAULT":
        return (_nearest(op, data, targets),)
    if interpolation != "LINEAR" or not data.is_floating_point():
        raise UnknownOperator.at(
            op.name, f"resize of {data.dtype}, {interpolation} with sampling_mode={sampling}"
        )
    return (_linear(op, data, targets, sampling),)


def grid(mode: str, size: int, target: int, op: Operation) -> np.ndarray:
    """Where `target` samples lie on an axis of `size` elements, in elements, by `sampling_mode`."""
    places = np.arange(target, dtype=np.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if target == 1:
            places += (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0
        else:
            places *= (size - 1) / (target - 1)
    elif mode == "DEFAULT":
        places *= size / target
    elif mode == "OFFSET_CORNERS":
        places = (places + 0.5) * max(1, size - 1) / target
    elif mode == "UNALIGN_CORNERS":
        places = (places + 0.5) * size / target - 0.5
    else:
        raise UnknownOperator.at(op.name, f"{op.type} with sampling_mode={mode}")
    return places.clip(0, size - 1)


def _targets(x: Inputs) -> dict[int, int]:
    return {-2: x.integer("target_size_height", 1), -1: x.integer("target_size_width", 1)}


def _scaled(op: Operation, x: Inputs) -> dict[int, int]:
    """Target sizes: as declared, where the program knows them, else floor(size * scale) in float32."""
    declared = op.outputs[0].type.shape
    targets = {}
    for axis, name in ((-2, "scale_factor_height"), (-1, "scale_factor_width")):
        known = declared[axis] if len(declared) >= -axis else None
        scaled = np.float32(x.number(name, 1.0)) * np.float32(x["x"].shape[axis])
        if not 1 <= scaled < 2**31:
            raise SourceUnreadable(f"{name} makes an axis of {scaled} elements", where=op.name)
        targets[axis] = int(np.floor(scaled)) if known is None else known
    return targets


def _checked(op: Operation, data: Tensor, targets: dict[int, int]) -> dict[int, int]:
    """`targets` by axis from the back, as they came, once the result is known to be possible."""
    shape = list(data.shape)
    for axis, target in targets.items():
        shape[axis] = target
    if 0 in (*shape, *data.shape):
        raise SourceUnreadable(f"an axis without elements in {list(data.shape)} to {shape}", where=op.name)
    bounded(shape, op.name)
    return targets


def _nearest(op: Operation, data: Tensor, targets: dict[int, int]) -> Tensor:
    for axis, target in _checked(op, data, targets).items():
        places = (2 * torch.arange(target) + 1) * data.shape[axis] // (2 * target)
        data = data.index_select(axis, places)
    return data


def _linear(op: Operation, data: Tensor, targets: dict[int, int], mode: str) -> Tensor:
    for axis, target in _checked(op, data, targets).items():
        size = data.shape[axis]
        places = grid(mode, size, target, op)
        low = np.floor(places).astype(np.int64)
        share = torch.from_numpy((places - low).astype(np.float32)).reshape(-1, *[1] * (-axis - 1))
        first = data.index_select(axis, torch.from_numpy(low))
        second = data.index_select(axis, torch.from_numpy(np.minimum(low + 1, size - 1)))
        data = torch.lerp(first, second, share)
    return data


OPS: dict[str, OpFunction] = {
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
