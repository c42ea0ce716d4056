"""Resizing by nearest neighbours, linear or cubic interpolation, in the coordinates that ONNX names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..call import Call, Operator

Array = np.ndarray[Any, Any]


def resize(call: Call) -> torch.Tensor:
    """As torch interpolates where that is the same, else axis by axis: known places, or a product with weights."""
    x = call.tensor(0)
    axes = [axis % x.dim() for axis in call.get("axes") or range(x.dim())]
    scales, sizes = _wanted(call, x, axes)
    mode = call.get("mode", "nearest")
    if mode not in ("nearest", "linear", "cubic"):
        raise call.refuse(f"in mode {mode!r}")
    axes, scales, sizes = _moved(x, axes, scales, sizes, call)
    places = [
        _coordinates(call, axis, x.shape[axis], scale, size)
        for axis, scale, size in zip(axes, scales, sizes, strict=True)
    ]
    whole = _at_once(call, x, mode, axes, places, scales)
    if whole is not None:
        return whole
    for axis, scale, spots in zip(axes, scales, places, strict=True):
        size = x.shape[axis]
        if mode == "nearest":
            x = torch.index_select(x, axis, torch.from_numpy(_nearest(call, spots, size)))
        else:
            weights = torch.from_numpy(_weights(call, mode, spots, size, scale)).to(x.dtype)
            x = torch.matmul(x.movedim(axis, -1), weights).movedim(-1, axis)
    if call.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        x = _outside(call, call.tensor(0), x, axes, places)
    return x


def _moved(
    x: torch.Tensor, axes: list[int], scales: list[float], sizes: list[int], call: Call
) -> tuple[list[int], list[float], list[int]]:
    """Without the axes that stay as they are."""
    crop = call.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    kept = [
        (axis, scale, size)
        for axis, scale, size in zip(axes, scales, sizes, strict=True)
        if crop or size != x.shape[axis] or scale != 1
    ]
    return [k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept]


def _wanted(call: Call, x: torch.Tensor, axes: list[int]) -> tuple[list[float], list[int]]:
    given = call.op == "Upsample" or call.opset < 11
    if given:
        scales = (
            [float(v) for v in call.known(1).reshape(-1)] if call.has(1) else list(call.get("scales") or [])
        )
    else:
        scales = [float(v) for v in call.known(2).reshape(-1)] if call.has(2) else []
    if scales:
        return scales, [math.floor(x.shape[axis] * scale) for axis, scale in zip(axes, scales, strict=True)]
    sizes = call.ints(3) or []
    found = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        scale = min(found) if policy == "not_larger" else max(found)
        return [scale] * len(axes), [math.floor(x.shape[axis] * scale + 0.5) for axis in axes]
    return found, sizes


def _coordinates(call: Call, axis: int, size: int, scale: float, wanted: int) -> Array:
    """Where each place of the result lies in the input."""
    steps = np.arange(wanted, dtype=np.float64)
    default = "asymmetric" if call.op == "Upsample" or call.opset < 11 else "half_pixel"
    mode = call.get("coordinate_transformation_mode", default)
    if mode == "asymmetric":
        return steps / scale
    if mode == "align_corners":
        return steps * (size - 1) / (scale * size - 1) if wanted > 1 else steps * 0
    if mode == "pytorch_half_pixel" and wanted == 1:
        return steps * 0
    if mode == "half_pixel_symmetric":
        adjustment = wanted / (scale * size)
        centre = size / 2
        return centre * (1 - adjustment) + (steps + 0.5) / scale - 0.5
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (steps + 0.5) / scale - 0.5
    if mode == "tf_crop_and_resize":
        region = call.known(1).reshape(2, -1).astype(np.float64)
        index = (call.get("axes") or list(range(region.shape[1]))).index(axis)
        first, last = region[:, index] * (size - 1)
        step = (last - first) / (wanted - 1) if wanted > 1 else 0.0
        return np.asarray(steps * step + (first if wanted > 1 else (first + last) / 2))
    raise call.refuse(f"with coordinates {mode!r}")


def _at_once(
    call: Call, x: torch.Tensor, mode: str, axes: list[int], places: list[Array], scales: list[float]
) -> torch.Tensor | None:
    """torch's own interpolation of images, which targets have as one operator; None where it differs."""
    if axes != [2, 3] or x.dim() != 4 or mode == "cubic" or call.get("antialias", 0):
        return None
    sizes = [len(spots) for spots in places]
    for axis, spots in zip(axes, places, strict=True):
        size, wanted = x.shape[axis], len(spots)
        steps = np.arange(wanted)
        if mode == "nearest":
            own = np.floor(steps * (size / wanted)).astype(np.int64)
            if not np.array_equal(_nearest(call, spots, size), own):
                return None
        elif not np.allclose(spots, (steps + 0.5) * size / wanted - 0.5, rtol=0, atol=1e-9):
            return None
    if mode == "nearest":
        return F.interpolate(x, size=sizes, mode="nearest")
    return F.interpolate(x, size=sizes, mode="bilinear", align_corners=False)


def _nearest(call: Call, places: Array, size: int) -> Array:
    default = "floor" if call.op == "Upsample" or call.opset < 11 else "round_prefer_floor"
    mode = call.get("nearest_mode", default)
    if mode == "floor":
        rounded = np.floor(places)
    elif mode == "ceil":
        rounded = np.ceil(places)
    else:
        rounded = np.ceil(places - 0.5) if mode == "round_prefer_floor" else np.floor(places + 0.5)
    return np.asarray(np.clip(rounded, 0, size - 1), np.int64)


def _weights(call: Call, mode: str, places: Array, size: int, scale: float) -> Array:
    """What each of `size` values (rows) adds to each place (columns); antialias stretches the kernel by 1 / scale."""
    smooth = bool(call.get("antialias", 0))
    shrink = min(scale, 1.0) if smooth else 1.0
    first = math.floor(-(1 if mode == "linear" else 2) / shrink) + 1
    around = np.arange(first, 2 - first)
    base = np.ceil(places).astype(np.int64) - 1  # so that the distance from it is above 0 and at most 1
    distance = (around[:, None] - (places - base)[None]) * shrink
    if mode == "linear":
        kernel = np.clip(1 - np.abs(distance), 0, None)
    else:
        kernel = _cubic(np.abs(distance), call.get("cubic_coeff_a", -0.75))
    index = base[None] + around[:, None]
    if call.get("exclude_outside", 0):
        kernel = np.where((index < 0) | (index >= size), 0, kernel)
    if smooth or call.get("exclude_outside", 0):
        kernel = kernel / kernel.sum(0)
    weights = np.zeros((size, len(places)))
    np.add.at(weights, (np.clip(index, 0, size - 1), np.arange(len(places))[None]), kernel)
    return weights


def _cubic(t: Array, a: float) -> Array:
    """Keys' cubic convolution kernel."""
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def _outside(
    call: Call, x: torch.Tensor, made: torch.Tensor, axes: list[int], places: list[Array]
) -> torch.Tensor:
    """`extrapolation_value` at the places that lie outside the input."""
    beyond = torch.zeros([1] * made.dim(), dtype=torch.bool)
    for axis, spots in zip(axes, places, strict=True):
        shape = [1] * made.dim()
        shape[axis] = -1
        out = (spots < 0) | (spots > x.shape[axis] - 1)
        beyond = beyond | torch.from_numpy(out).reshape(shape)
    return torch.where(beyond, call.get("extrapolation_value", 0.0), made)


OPERATORS: dict[str, Operator] = {"Resize": resize, "Upsample": resize}
