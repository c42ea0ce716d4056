"""Resizing and sampling against torch where it has the same grid, else against the documented grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_calls import apply
from modelport.mil.program import UnknownOperator
from modelport.targets.errors import SourceUnreadable

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6))
MODES = st.sampled_from(
    ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]
)
SEEDS = st.integers(0, 2**16)


def image(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=tolerance, atol=tolerance)


def grid_point(mode: str, size: int, target: int, i: int) -> float:
    """The documentation of resize_bilinear, line by line."""
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if target == 1:
            return (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0
        return min(size - 1, max(0, i * (size - 1) / (target - 1)))
    if mode == "DEFAULT":
        spacing = (size - size / target) / (target - 1) if target > 1 else 0
        return min(size - 1, max(0, i * spacing))
    if mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / target
        return min(size - 1, max(0, 0.5 * delta + i * delta))
    spacing = size / target
    return min(size - 1, max(0, i * spacing + 0.5 * spacing - 0.5))


def interpolated(data: Array, mode: str, targets: tuple[int, int]) -> Array:
    """Bilinear on that grid, point by point, in double precision."""
    result = np.zeros((*data.shape[:-2], *targets))
    for i, j in np.ndindex(*targets):
        row, column = (grid_point(mode, data.shape[a], targets[a], at) for a, at in ((-2, i), (-1, j)))
        top, left = int(row), int(column)
        below, right = min(top + 1, data.shape[-2] - 1), min(left + 1, data.shape[-1] - 1)
        high, wide = row - top, column - left
        upper = data[..., top, left] * (1 - wide) + data[..., top, right] * wide
        lower = data[..., below, left] * (1 - wide) + data[..., below, right] * wide
        result[..., i, j] = upper * (1 - high) + lower * high
    return result


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, targets=SIZES, mode=MODES, rank=st.integers(2, 5), seed=SEEDS)
def test_resize_bilinear_samples_the_documented_grid(
    sizes: tuple[int, int], targets: tuple[int, int], mode: str, rank: int, seed: int
) -> None:
    data = image(seed, *[2] * (rank - 2), *sizes)
    expected = interpolated(data.double().numpy(), mode, targets)
    named = {"target_size_height": targets[0], "target_size_width": targets[1], "sampling_mode": mode}
    close(apply("resize_bilinear", x=data, **named), expected)
    shape = np.int32([7, *targets])
    close(apply("resize", x=data, shape=shape, resized_dims=2, sampling_mode=mode), expected)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, targets=SIZES, corners=st.booleans(), seed=SEEDS)
def test_its_modes_are_torchs(
    sizes: tuple[int, int], targets: tuple[int, int], corners: bool, seed: int
) -> None:
    data = image(seed, 2, 3, *sizes)
    found = apply(
        "resize_bilinear", x=data, target_size_height=targets[0], target_size_width=targets[1],
        sampling_mode="STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS",
    )  # fmt: skip
    close(found, F.interpolate(data, targets, mode="bilinear", align_corners=corners))


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, scales=st.tuples(*[st.floats(0.5, 3)] * 2), corners=st.booleans(), seed=SEEDS)
def test_upsample_bilinear_is_torchs_with_a_recomputed_scale(
    sizes: tuple[int, int], scales: tuple[float, float], corners: bool, seed: int
) -> None:
    data = image(seed, 1, 2, *sizes)
    targets = [int(np.float32(scale) * np.float32(size)) for scale, size in zip(scales, sizes, strict=True)]
    named = {"scale_factor_height": scales[0], "scale_factor_width": scales[1], "align_corners": corners}
    if min(targets) < 1:
        with pytest.raises(SourceUnreadable, match="scale_factor"):
            apply("upsample_bilinear", x=data, **named)
        return
    found = apply("upsample_bilinear", x=data, **named)
    close(found, F.interpolate(data, targets, mode="bilinear", align_corners=corners))


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, scales=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=SEEDS)
def test_upsample_nearest_is_torchs(sizes: tuple[int, int], scales: tuple[int, int], seed: int) -> None:
    data = image(seed, 2, 2, *sizes)
    found = apply(
        "upsample_nearest_neighbor", x=data, scale_factor_height=scales[0], scale_factor_width=scales[1]
    )
    close(found, F.interpolate(data, scale_factor=scales, mode="nearest"))
    close(found, data.repeat_interleave(scales[0], 2).repeat_interleave(scales[1], 3))


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, targets=SIZES, seed=SEEDS)
def test_resize_nearest_takes_the_pixel_at_the_centre(
    sizes: tuple[int, int], targets: tuple[int, int], seed: int
) -> None:
    data = image(seed, 1, 2, *sizes)
    places = [np.floor((np.arange(t) + 0.5) * s / t).astype(int) for s, t in zip(sizes, targets, strict=True)]
    expected = data.numpy()[..., places[0][:, None], places[1]]
    close(
        apply("resize_nearest_neighbor", x=data, target_size_height=targets[0], target_size_width=targets[1]),
        expected,
    )
    found = apply(
        "resize", x=data, shape=np.int32(targets), resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR"
    )
    close(found, expected)


def test_what_was_seen_on_a_mac() -> None:
    """Expectations of coremltools' own operator tests, which hold for Core ML."""
    row = np.float32([1.5, -2.5, 3.5]).reshape(1, 1, 1, 3)
    upsampled = apply("upsample_nearest_neighbor", x=row, scale_factor_height=3.17, scale_factor_width=0.67)
    assert upsampled.tolist() == [[[[1.5, -2.5]] * 3]]
    upsampled = apply("upsample_nearest_neighbor", x=row, scale_factor_height=2.0, scale_factor_width=1.12)
    assert upsampled.tolist() == [[[[1.5, -2.5, 3.5]] * 2]]
    pair = np.float32([-6.174, 9.371]).reshape(1, 1, 2, 1)
    nearest = {"resized_dims": 2, "interpolation_mode": "NEAREST_NEIGHBOR"}
    resized = apply("resize", x=pair, shape=np.int32([1, 1, 3, 2]), **nearest)
    assert np.array_equal(resized[0, 0], np.float32([[-6.174] * 2, [9.371] * 2, [9.371] * 2]))
    sixteen = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    boxes = np.float32([[0.1, 0.3, 1.3, 1.0], [0.5, 1.8, 1.0, 0.3], [0.0, 0.4, 0.6, 0.7]])
    cropped = apply(
        "crop_resize", x=sixteen, boxes=boxes, box_indices=np.int32([0, 0, 0]), target_height=2, target_width=2,
        normalized_coordinates=True, sampling_mode="ALIGN_CORNERS", pad_value=10.0,
    )  # fmt: skip
    close(cropped.ravel(), [3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9, 2.2, 3.1, 9.4, 10.3], 1e-4)
    four = np.float32([11, 22, 33, 44]).reshape(1, 1, 2, 2)
    sampled = apply(
        "affine", x=four, transform_matrix=np.float32([[-1, -2, -3.7, -1, 3.5, 1.2]]), output_height=2,
        output_width=5, sampling_mode="bilinear", padding_mode="constant", padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one", align_corners=True,
    )  # fmt: skip
    close(sampled.ravel(), [10.752501, 5.94, 2.5025, 0.44, 0, 0, 0, 0, 0, 0], 1e-4)


@settings(max_examples=60, deadline=None)
@given(
    sizes=SIZES, targets=SIZES, corners=st.booleans(), nearest=st.booleans(),
    padding=st.sampled_from(["constant", "border", "mirrored"]), seed=SEEDS,
)  # fmt: skip
def test_resample_is_torchs_grid_sample(
    sizes: tuple[int, int], targets: tuple[int, int], corners: bool, nearest: bool, padding: str, seed: int
) -> None:
    data = image(seed, 2, 3, *sizes)
    grid = 1.5 * image(seed + 1, 2, *targets, 2)
    # torch mirrors about the centres of the border pixels or about their edges, by align_corners.
    mirror = "reflection" if corners else "symmetric"
    found = apply(
        "resample", x=data, coordinates=grid, sampling_mode="nearest" if nearest else "bilinear",
        padding_mode=mirror if padding == "mirrored" else padding, padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one", align_corners=corners,
    )  # fmt: skip
    names = {"constant": "zeros", "border": "border", "mirrored": "reflection"}
    expected = F.grid_sample(
        data,
        grid,
        mode="nearest" if nearest else "bilinear",
        padding_mode=names[padding],
        align_corners=corners,
    )
    close(found, expected, 1e-4)
    pixels = (grid + 1) / 2 * (torch.tensor(sizes[::-1]) - 1)
    if corners and not nearest:
        again = apply(
            "resample", x=data, coordinates=pixels, sampling_mode="bilinear",
            padding_mode=mirror if padding == "mirrored" else padding, padding_value=0.0,
            coordinates_mode="unnormalized", align_corners=corners,
        )  # fmt: skip
        close(again, expected, 1e-4)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, targets=SIZES, batch=st.integers(1, 3), count=st.integers(1, 3), seed=SEEDS)
def test_crop_resize_of_old_and_new_form_agree_with_a_linear_image(
    sizes: tuple[int, int], targets: tuple[int, int], batch: int, count: int, seed: int
) -> None:
    """An image that is linear in its rows and columns shows where it was sampled."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.arange(sizes[0]), np.arange(sizes[1]), indexing="ij")
    offsets = 100.0 * np.arange(batch).reshape(-1, 1, 1, 1)
    data = (offsets + np.stack([rows, columns])).astype(np.float32)
    limits = np.float32(sizes) - 1
    start, end = rng.uniform(size=(2, count, 2)).astype(np.float32) * limits
    named = {"target_height": targets[0], "target_width": targets[1], "sampling_mode": "ALIGN_CORNERS"}
    images = rng.integers(0, batch, count).astype(np.int32)
    found = apply("crop_resize", x=data, boxes=np.concatenate((start, end), 1), box_indices=images, **named)
    for n in range(count):
        for axis in range(2):
            line = np.linspace(start[n, axis], end[n, axis], targets[axis])
            line = line if targets[axis] > 1 else np.array([(start[n, axis] + end[n, axis]) / 2])
            expected = np.broadcast_to(line[:, None] if axis == 0 else line, targets)
            close(found[n, axis], expected + 100 * images[n], 1e-4)
    every = np.concatenate((start, end), 1).reshape(count, 1, 4, 1, 1)
    single = np.concatenate((images[:, None].astype(np.float32), start, end), 1).reshape(count, 1, 5, 1, 1)
    old = apply("crop_resize", x=data, roi=every, **named)
    assert old.shape == (count, batch, 2, *targets)
    close(old[np.arange(count), images], found, 1e-4)
    close(apply("crop_resize", x=data, roi=single, **named)[:, 0], found, 1e-4)
    centred = np.concatenate(((start + end)[:, ::-1] / 2, (end - start)[:, ::-1]), 1)
    again = apply(
        "crop_resize",
        x=data,
        boxes=centred,
        box_indices=images,
        box_coordinate_mode="CENTER_SIZE_WIDTH_FIRST",
        **named,
    )
    close(
        again,
        apply("crop_resize", x=data, boxes=np.concatenate((start, end), 1), box_indices=images, **named),
        1e-3,
    )


def test_crop_takes_the_edges_off() -> None:
    data = np.arange(16.0).reshape(1, 4, 4)
    assert apply("crop", x=data, crop_height=[0, 1], crop_width=[1, 1]).tolist() == [
        [[1, 2], [5, 6], [9, 10]]
    ]
    with pytest.raises(SourceUnreadable, match="more than there is"):
        apply("crop", x=data, crop_height=[3, 2], crop_width=[0, 0])


def test_what_it_does_not_know_is_named() -> None:
    data = np.zeros((1, 1, 4, 4))
    with pytest.raises(UnknownOperator, match="sampling_mode=SPLINE"):
        apply("resize_bilinear", x=data, target_size_height=2, target_size_width=2, sampling_mode="SPLINE")
    with pytest.raises(UnknownOperator, match="NEAREST_NEIGHBOR with sampling_mode=ALIGN_CORNERS"):
        apply(
            "resize", x=data, shape=[2, 2], resized_dims=2, interpolation_mode="NEAREST_NEIGHBOR",
            sampling_mode="ALIGN_CORNERS",
        )  # fmt: skip
    with pytest.raises(UnknownOperator, match="crop_resize with sampling_mode=OFFSET_CORNERS"):
        apply("crop_resize", x=data, boxes=np.zeros((1, 4)), sampling_mode="OFFSET_CORNERS")
    with pytest.raises(SourceUnreadable, match="elements"):
        apply("resize_bilinear", x=data, target_size_height=2**20, target_size_width=2**20)
