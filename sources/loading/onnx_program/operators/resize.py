"""Resizing by nearest neighbours or linear interpolation, in the coordinates that ONNX names."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..call import Call, Operator


def resize(call: Call) -> torch.Tensor:
    """Axis by axis: a product with a known matrix of weights, or a choice of known places."""
    x = call.tensor(0)
    axes = [axis % x.dim() for axis in call.get("axes") or range(x.dim())]
    scales, sizes = _wanted(call, x, axes)
    mode = call.get("mode", "nearest")
    if mode not in ("nearest", "linear") or call.get("antialias", 0):
        raise call.refuse(f"in mode {mode!r}{' with antialias' if call.get('antialias', 0) else ''}")
    if call.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise call.refuse("with tf_crop_and_resize")
    for axis, scale, size in zip(axes, scales, sizes, strict=True):
        if size == x.shape[axis] and scale == 1:
            continue
        places = _coordinates(call, x.shape[axis], scale, size)
        if mode == "nearest":
            x = torch.index_select(x, axis, torch.from_numpy(_nearest(call, places, x.shape[axis])))
        else:
            x = _linear(x, axis, places)
    return x


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


def _coordinates(call: Call, size: int, scale: float, wanted: int) -> np.ndarray:
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
    raise call.refuse(f"with coordinates {mode!r}")


def _nearest(call: Call, places: np.ndarray, size: int) -> np.ndarray:
    default = "floor" if call.op == "Upsample" or call.opset < 11 else "round_prefer_floor"
    mode = call.get("nearest_mode", default)
    if mode == "floor":
        rounded = np.floor(places)
    elif mode == "ceil":
        rounded = np.ceil(places)
    else:
        rounded = np.ceil(places - 0.5) if mode == "round_prefer_floor" else np.floor(places + 0.5)
    return np.asarray(np.clip(rounded, 0, size - 1), np.int64)


def _linear(x: torch.Tensor, axis: int, places: np.ndarray) -> torch.Tensor:
    size = x.shape[axis]
    places = np.clip(places, 0, size - 1)
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    weights = np.zeros((size, len(places)))
    np.add.at(weights, (low, np.arange(len(places))), 1 - (places - low))
    np.add.at(weights, (high, np.arange(len(places))), places - low)
    moved = torch.matmul(x.movedim(axis, -1), torch.from_numpy(weights).to(x.dtype))
    return moved.movedim(-1, axis)


OPERATORS: dict[str, Operator] = {"Resize": resize, "Upsample": resize}
