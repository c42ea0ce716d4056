"""The doctor finds each thing that is wrong with data, and nothing in data that is right."""

from __future__ import annotations

import numpy as np
import pytest

from modelport.calibration.doctor import Finding, examine, stop
from modelport.calibration.preprocess import Preprocessing
from modelport.targets.errors import UsageError
from modelport.targets.facts import IoFact

NCHW = IoFact("x", "float32", ("batch", 3, 12, 10))
VECTOR = IoFact("x", "float32", ("batch", 5))
IDS = IoFact("input_ids", "int64", ("batch", "sequence"))
MASK = IoFact("attention_mask", "int64", ("batch", "sequence"))
TYPES = IoFact("token_type_ids", "int64", ("batch", "sequence"))
IMAGENET = Preprocessing(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), origin="preprocessor_config.json"
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 3, 12, 10)).astype(np.float32)
UNIT = PIXELS / 255
NORMAL = (UNIT - np.reshape(IMAGENET.mean, (3, 1, 1))) / np.reshape(IMAGENET.std, (3, 1, 1))
NORMAL = NORMAL.astype(np.float32)
TOKENS = RNG.integers(1, 90, (40, 6))


def codes(io: IoFact, array: np.ndarray, **options: object) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in examine({io.name: array}, (io,), **options)]


@pytest.mark.parametrize(
    ("io", "array", "options"),
    [
        (NCHW, UNIT, {}),
        (NCHW, NORMAL, {}),
        (NCHW, NORMAL, {"expects": IMAGENET}),
        (NCHW, UNIT, {"expects": Preprocessing()}),
        (NCHW, PIXELS, {"expects": Preprocessing(scale=1.0)}),
        (VECTOR, RNG.normal(size=(40, 5)).astype(np.float32), {}),
        (IDS, TOKENS, {"vocabulary": 90}),
        (IDS, TOKENS.astype(np.int32), {}),
        (MASK, np.ones((40, 6), np.int64), {}),
        (TYPES, np.zeros((40, 6), np.int64), {"token_types": 2}),
    ],
)
def test_right_data_gives_no_finding_about_itself(
    io: IoFact, array: np.ndarray, options: dict[str, object]
) -> None:
    assert [code for code in codes(io, array, **options) if code[1] != "duplicates"] == []


@pytest.mark.parametrize(
    ("io", "array", "options", "expected"),
    [
        (NCHW, UNIT.transpose(0, 2, 3, 1), {}, ("error", "layout")),
        (IoFact("x", "float32", (1, 12, 10, 3)), UNIT, {}, ("error", "layout")),
        (IoFact("x", "float32", (1, 3, "h", "w")), UNIT.transpose(0, 2, 3, 1), {}, ("error", "layout")),
        (NCHW, UNIT[:, :, :11], {}, ("error", "shape")),
        (NCHW, UNIT[0], {}, ("error", "no-sample-axis")),
        (VECTOR, np.zeros((40, 6), np.float32), {}, ("error", "shape")),
        (VECTOR, RNG.normal(size=(40, 5)), {}, ("warning", "dtype")),
        (NCHW, PIXELS.astype(np.uint8), {}, ("warning", "dtype")),
        (IDS, TOKENS.astype(np.float32), {}, ("error", "dtype")),
        (VECTOR, np.full((40, 5), "a"), {}, ("error", "dtype")),
        (
            VECTOR,
            np.where(np.arange(200).reshape(40, 5) == 88, np.nan, 1).astype(np.float32),
            {},
            ("error", "nan"),
        ),
        (
            VECTOR,
            np.where(np.arange(200).reshape(40, 5) == 88, np.inf, 1).astype(np.float32),
            {},
            ("error", "inf"),
        ),
        (NCHW, PIXELS, {}, ("warning", "range")),
        (NCHW, PIXELS, {"expects": IMAGENET}, ("error", "range")),
        (NCHW, UNIT, {"expects": IMAGENET}, ("warning", "range")),
        (NCHW, NORMAL, {"expects": Preprocessing()}, ("warning", "range")),
        (NCHW, UNIT, {"expects": Preprocessing(scale=1.0)}, ("warning", "range")),
        (VECTOR, RNG.normal(size=(15, 5)).astype(np.float32), {}, ("warning", "few")),
        (
            VECTOR,
            np.repeat(RNG.normal(size=(20, 5)), 2, axis=0).astype(np.float32),
            {},
            ("warning", "duplicates"),
        ),
        (VECTOR, np.ones((40, 5), np.float32), {}, ("warning", "constant")),
        (IDS, np.ones((40, 6), np.int64), {}, ("warning", "constant")),
        (NCHW, UNIT * (np.arange(40) % 2).reshape(40, 1, 1, 1), {}, ("warning", "blank")),
        (IDS, TOKENS, {"vocabulary": 89}, ("error", "vocabulary")),
        (IDS, TOKENS - 5, {}, ("error", "vocabulary")),
        (TYPES, TOKENS, {"token_types": 2}, ("error", "vocabulary")),
        (MASK, TOKENS, {}, ("error", "mask")),
        (MASK, (np.arange(240).reshape(40, 6) > 6).astype(np.int64), {}, ("warning", "mask")),
    ],
)
def test_each_fault_is_found(
    io: IoFact, array: np.ndarray, options: dict[str, object], expected: tuple[str, str]
) -> None:
    if array.dtype == np.float64 and expected != ("warning", "dtype"):
        array = array.astype(np.float32)
    assert expected in codes(io, array, **options)


PHOTO = IoFact("x", "float32", ("batch", 3, 8, 8))


def photographs(order: slice) -> np.ndarray:
    """Eighty 0..1 NCHW images with ImageNet's mean colour; the colour of single ones strays widely from it."""
    generator = np.random.default_rng(3)
    colours = np.array(IMAGENET.mean) + generator.normal(0, 0.12, (80, 3))
    pixels = colours[:, :, None, None] + generator.normal(0, 0.2, (80, 3, 8, 8))
    return np.clip(pixels[:, order], 0, 1).astype(np.float32)


def normalised(pixels: np.ndarray) -> np.ndarray:
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (IMAGENET.mean, IMAGENET.std))
    return ((pixels - mean) / std).astype(np.float32)


@pytest.mark.parametrize("expects", [None, IMAGENET])
def test_photographs_with_swapped_channels_are_suspected(expects: Preprocessing | None) -> None:
    right, wrong = photographs(slice(None)), photographs(slice(None, None, -1))
    if expects is not None:
        right, wrong = normalised(right), normalised(wrong)
    assert ("warning", "channels") in codes(PHOTO, wrong, expects=expects)
    assert ("warning", "channels") not in codes(PHOTO, right, expects=expects)
    assert ("warning", "channels") not in codes(PHOTO, wrong, expects=expects, order_known=True)
    assert ("warning", "channels") not in codes(PHOTO, wrong[:10], expects=expects)


def test_real_photographs_in_their_right_order_are_not_suspected() -> None:
    from sklearn.datasets import load_sample_images

    crops = [
        photo[top : top + 60, left : left + 60]
        for photo in load_sample_images().images
        for top in range(0, 360, 90)
        for left in range(0, 600, 120)
    ]
    pixels = (np.stack(crops).transpose(0, 3, 1, 2) / 255).astype(np.float32)
    io = IoFact("x", "float32", ("batch", 3, 60, 60))
    assert codes(io, pixels) == []
    assert codes(io, normalised(pixels), expects=IMAGENET) == []


def test_grey_images_and_small_differences_are_not_suspected() -> None:
    grey = np.repeat(UNIT[:, :1], 3, axis=1)
    assert codes(NCHW, grey) == []
    tinted = UNIT.copy()
    tinted[:, 2] += 0.01
    assert codes(NCHW, np.clip(tinted, 0, 1)) == []


def test_a_difference_within_its_own_spread_is_not_suspected() -> None:
    strong = UNIT[:20] * 0.5
    strong[:11, 2] += 0.5
    strong[11:, 0] += 0.5
    assert strong[:, 2].mean() - strong[:, 0].mean() > 0.03
    assert ("warning", "channels") not in codes(NCHW, strong)


def test_sentences_name_input_fault_and_mend() -> None:
    (finding,) = examine({"x": UNIT.transpose(0, 2, 3, 1)}, (NCHW,))
    assert str(finding) == (
        "input x: shape (40, 12, 10, 3) is NHWC; the model takes (batch, 3, 12, 10), which is NCHW. "
        "Transpose it: array.transpose(0, 3, 1, 2)"
    )
    assert UNIT.transpose(0, 2, 3, 1).transpose(0, 3, 1, 2).shape[1:] == (3, 12, 10)


def test_errors_stop_and_warnings_do_not() -> None:
    warning = Finding("warning", "few", "", "only 3 samples")
    stop([warning], "data.npz")
    error = Finding("error", "nan", "x", "sample 3 holds NaN", "Remove it")
    with pytest.raises(
        UsageError, match=r"data.npz: input x: sample 3 holds NaN; also: .*\(ids\)\. Remove it"
    ):
        stop([warning, error, Finding("error", "dtype", "ids", "float32 data")], "data.npz")
