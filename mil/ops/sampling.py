"""Reading images at computed coordinates: crops, crops with resizing, affine maps and free sampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...targets.errors import SourceUnreadable
from ..program import Operation, UnknownOperator
from ..values import Inputs, OpFunction, Tensor, bounded
from .checks import indices_of


def crop(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The last two axes without `crop_height` (top, bottom) and `crop_width` (left, right)."""
    data = x["x"]
    (top, bottom), (left, right) = x.integers("crop_height"), x.integers("crop_width")
    height, width = data.shape[-2] - top - bottom, data.shape[-1] - left - right
    if min(top, bottom, left, right, height, width) < 0:
        raise SourceUnreadable(f"it crops more than there is of {list(data.shape)}", where=op.name)
    return (data[..., top : top + height, left : left + width],)


def affine(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Bilinear samples at x' = a0 x + a1 y + a2, y' = b0 x + b1 y + b2, both in -1..1; zeros outside."""
    data, matrix = x["x"], x["transform_matrix"]
    modes = (
        x.text("sampling_mode").lower(),
        x.text("padding_mode").lower(),
        x.text("coordinates_mode").lower(),
    )
    corners = x.flag("align_corners")
    if (
        modes != ("bilinear", "constant", "normalized_minus_one_to_one")
        or x.number("padding_value")
        or not corners
    ):
        raise UnknownOperator.at(op.name, f"affine with {', '.join(modes)}, align_corners={corners}")
    shape = (data.shape[0], data.shape[1], x.integer("output_height"), x.integer("output_width"))
    bounded(shape, op.name)
    theta = matrix.reshape(-1, 2, 3).expand(data.shape[0], 2, 3)
    return (F.grid_sample(data, F.affine_grid(theta, list(shape), align_corners=True), align_corners=True),)


def resample(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Samples of x [B, C, H, W] at `coordinates` [B, h, w, (x, y)]."""
    data, coordinates = x["x"], x["coordinates"].float()
    mode, corners = x.text("coordinates_mode").lower(), x.flag("align_corners")
    padding, nearest = x.text("padding_mode").lower(), x.text("sampling_mode").lower() == "nearest"
    columns, rows = (
        _inside(_pixels(coordinates[..., place], size, mode, corners, op), size, padding, op)
        for place, size in ((0, data.shape[3]), (1, data.shape[2]))
    )
    if nearest:
        rows, columns = rows.round(), columns.round()
    elif x.text("sampling_mode").lower() != "bilinear":
        raise UnknownOperator.at(op.name, f"resample with sampling_mode={x.text('sampling_mode')}")
    return (_bilinear(data, rows, columns, x.number("padding_value", 0.0)),)


def crop_resize(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Boxes of images resized to one size, linear; `pad_value` outside of the image.

    Up to iOS16: `roi` [N, 1, 4 or 5, 1, 1] gives [N, B or 1, C, h, w]; five values begin with an image's number.
    From iOS17 on: `boxes` [N, 4] and `box_indices` [N] give [N, C, h, w].
    """
    data = x["x"]
    if "boxes" in x:
        boxes, chosen = x["boxes"].float(), x.optional("box_indices")
        images = torch.arange(boxes.shape[0]) if chosen is None else chosen
        return (_crops(op, x, boxes, images),)
    roi = x["roi"].float().flatten(1)
    if roi.shape[1] == 5:
        return (_crops(op, x, roi[:, 1:], roi[:, 0]).unsqueeze(1),)
    batch = data.shape[0]
    crops = _crops(op, x, roi.repeat_interleave(batch, dim=0), torch.arange(batch).repeat(roi.shape[0]))
    return (crops.reshape(roi.shape[0], batch, *crops.shape[1:]),)


def _crops(op: Operation, x: Inputs, boxes: Tensor, images: Tensor) -> Tensor:
    """One crop [C, h, w] a box, of the image with the number beside it."""
    data, mode = x["x"], x.text("sampling_mode", "DEFAULT")
    if mode not in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        # Their grids are documented for whole images only.
        raise UnknownOperator.at(op.name, f"crop_resize with sampling_mode={mode}")
    target = (x.integer("target_height", 1), x.integer("target_width", 1))
    bounded((boxes.shape[0], data.shape[1], *target), op.name)
    scale = x.number("spatial_scale", 1.0)
    rows, columns = _corners(op, x, boxes)
    lines = []
    for (start, end), size, count in zip((rows, columns), data.shape[2:], target, strict=True):
        unit = (size - 1 if x.flag("normalized_coordinates", False) else 1) * scale
        steps = (
            torch.linspace(0, 1, count)
            if count > 1
            else torch.tensor([0.5 if mode == "ALIGN_CORNERS" else 0.0])
        )
        lines.append(unit * (start[:, None] + (end - start)[:, None] * steps))
    pictures = data.index_select(0, indices_of(images, data.shape[0], op, x))
    high, wide = (line.expand(-1, *target) for line in (lines[0][:, :, None], lines[1][:, None, :]))
    outside = (high < 0) | (high > data.shape[2] - 1) | (wide < 0) | (wide > data.shape[3] - 1)
    samples = _bilinear(pictures, high.clamp(0, data.shape[2] - 1), wide.clamp(0, data.shape[3] - 1), 0.0)
    return samples.masked_fill(outside[:, None], x.number("pad_value", 0.0))


def _corners(op: Operation, x: Inputs, boxes: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The first and last row, and the first and last column, of each box."""
    mode = x.text("box_coordinate_mode", "CORNERS_HEIGHT_FIRST")
    a, b, c, d = boxes.unbind(dim=1)
    if mode.endswith("WIDTH_FIRST"):
        a, b, c, d = b, a, d, c
    if mode.startswith("CORNERS_"):
        return (a, c), (b, d)
    if mode.startswith("CENTER_SIZE_"):
        return (a - c / 2, a + c / 2), (b - d / 2, b + d / 2)
    raise UnknownOperator.at(op.name, f"crop_resize with box_coordinate_mode={mode}")


def _pixels(values: Tensor, size: int, mode: str, corners: bool, op: Operation) -> Tensor:
    """Coordinates of `coordinates_mode` in pixels; 0 is the centre of the first."""
    if mode == "unnormalized":
        return values
    if mode == "normalized_minus_one_to_one":
        values = (values + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise UnknownOperator.at(op.name, f"resample with coordinates_mode={mode}")
    return values * (size - 1) if corners else values * size - 0.5


def _inside(places: Tensor, size: int, padding: str, op: Operation) -> Tensor:
    """Pixel coordinates moved into the image, as `padding_mode` repeats it; "constant" leaves them."""
    if padding == "constant":
        return places
    if padding == "reflection":
        period = 2 * (size - 1)
        places = places.abs() % period if period else torch.zeros_like(places)
        places = torch.minimum(places, period - places)
    elif padding == "symmetric":
        places = (places + 0.5) % (2 * size)
        places = torch.minimum(places, 2 * size - places) - 0.5
    elif padding != "border":
        raise UnknownOperator.at(op.name, f"resample with padding_mode={padding}")
    return places.clamp(0, size - 1)


def _bilinear(data: Tensor, rows: Tensor, columns: Tensor, padding: float) -> Tensor:
    """Samples of data [B, C, H, W] at pixel coordinates [B, h, w]; a neighbour outside counts as `padding`."""
    batch, channels, height, width = data.shape
    flat = data.flatten(2)
    result = data.new_zeros((batch, channels, *rows.shape[1:]))
    top, left = rows.floor(), columns.floor()
    for row, high in ((top, 1 - (rows - top)), (top + 1, rows - top)):
        for column, wide in ((left, 1 - (columns - left)), (left + 1, columns - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            places = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            values = flat.gather(2, places.flatten(1)[:, None].expand(-1, channels, -1)).reshape(result.shape)
            share = (high * wide)[:, None]
            result = result + torch.where(inside[:, None], values, padding) * share
    return result


OPS: dict[str, OpFunction] = {
    "affine": affine,
    "crop": crop,
    "crop_resize": crop_resize,
    "resample": resample,
}
