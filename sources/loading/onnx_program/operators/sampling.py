"""Reading images between their pixels, at places that depend on the inputs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..call import Call, Operator

MODES = {
    "bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "cubic": "bicubic",
}  # fmt: skip
"""torch's names of ONNX's interpolations, before and from opset 20 on."""


def grid_sample(call: Call) -> torch.Tensor:
    """At the places of the grid, from -1 to 1 along each axis."""
    x, mode = call.tensor(0), MODES.get(call.get("mode", "bilinear"), "")
    if not mode or x.dim() not in (4, 5) or (mode == "bicubic" and x.dim() == 5):
        raise call.refuse(f"in mode {call.get('mode')!r} over {x.dim() - 2} axes")
    return F.grid_sample(
        x, call.tensor(1), mode, call.get("padding_mode", "zeros"), bool(call.get("align_corners", 0))
    )


def roi_align(call: Call) -> torch.Tensor:
    """The mean of bilinear samples in each bin: a product with weights of the rows, and one of the columns."""
    x, rois, batch = call.tensor(0), call.tensor(1), call.tensor(2).long()
    ratio = call.get("sampling_ratio", 0)
    if call.get("mode", "avg") != "avg" or ratio <= 0:
        raise call.refuse("of the maximum, or with a sampling ratio that depends on the regions")
    default = "output_half_pixel" if call.opset < 16 else "half_pixel"
    half = call.get("coordinate_transformation_mode", default) == "half_pixel"
    corners = rois * call.get("spatial_scale", 1.0) - (0.5 if half else 0.0)
    rows, columns = (
        _bins(corners[:, first], corners[:, first + 2], x.shape[3 - first], count, ratio, grow=not half)
        for first, count in ((1, call.get("output_height", 1)), (0, call.get("output_width", 1)))
    )
    return torch.einsum("rph,rchw,rqw->rcpq", rows, torch.index_select(x, 0, batch), columns)


def _bins(
    start: torch.Tensor, end: torch.Tensor, size: int, count: int, ratio: int, *, grow: bool
) -> torch.Tensor:
    """(regions, bins, size): what each pixel adds to the mean of each bin's samples along one axis."""
    extent = torch.clamp(end - start, min=1.0) if grow else end - start
    steps = (torch.arange(count * ratio, dtype=start.dtype) + 0.5) / ratio
    places = start[:, None] + steps * (extent / count)[:, None]
    inside = (places >= -1) & (places <= size)
    pixels = torch.arange(size, dtype=start.dtype)
    tent = torch.relu(1 - (torch.clamp(places, 0, size - 1)[..., None] - pixels).abs())
    return (tent * inside[..., None]).reshape(-1, count, ratio, size).mean(2)


def deform_conv(call: Call) -> torch.Tensor:
    """A convolution whose every product reads the image at an offset of its own, in two axes."""
    x, weight, offset = call.tensor(0), call.tensor(1), call.tensor(2)
    if x.dim() != 4:
        raise call.refuse(f"over {x.dim() - 2} spatial axes")
    n, channels, height, width = x.shape
    (high, wide), sizes = weight.shape[2:], offset.shape[2:]
    groups, parts = call.get("group", 1), call.get("offset_group", 1)
    pads = list(call.get("pads") or [0] * 4)
    places = []
    shifts = offset.reshape(n * parts, high * wide, 2, *sizes)
    for axis, (taps, limit) in enumerate(((high, height), (wide, width))):
        stride, dilation = ((call.get(name) or [1, 1])[axis] for name in ("strides", "dilations"))
        corner = (torch.arange(sizes[axis]) * stride - pads[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        tap = torch.arange(taps) * dilation
        tap = tap.repeat_interleave(wide) if axis == 0 else tap.repeat(high)
        place = shifts[:, :, axis] + (corner + tap.reshape(-1, 1, 1)).to(x.dtype)
        places.append(place / max(limit - 1, 1) * 2 - 1)
    grid = torch.stack(places[::-1], -1).reshape(n * parts, high * wide, math.prod(sizes), 2)
    read = F.grid_sample(x.reshape(n * parts, -1, height, width), grid, "bilinear", "zeros", True)
    if call.has(4):
        read = read * call.tensor(4).reshape(n * parts, 1, high * wide, math.prod(sizes))
    columns = read.reshape(n, groups, channels // groups * high * wide, math.prod(sizes))
    made = torch.matmul(weight.reshape(groups, weight.shape[0] // groups, -1), columns)
    made = made.reshape(n, -1, *sizes)
    return made + call.tensor(3).reshape(1, -1, 1, 1) if call.has(3) else made


OPERATORS: dict[str, Operator] = {"GridSample": grid_sample, "RoiAlign": roi_align, "DeformConv": deform_conv}
