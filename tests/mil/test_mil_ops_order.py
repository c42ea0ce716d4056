"""Sorting, sums, windows, placement and creation against torch, NumPy and loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_calls import apply, apply_all
from modelport.targets.errors import SourceUnreadable

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**16)


def same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def integers(seed: int, shape: Any) -> Array:
    """Few different values, so that many are equal."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.int32)


@settings(max_examples=80, deadline=None)
@given(shape=SHAPES, axis=st.integers(-4, 3), ascending=st.booleans(), data=st.data(), seed=SEEDS)
def test_topk_and_argsort_keep_equal_elements_in_order(
    shape: list[int], axis: int, ascending: bool, data: st.DataObject, seed: int
) -> None:
    axis = axis % len(shape) - (len(shape) if axis < 0 else 0)
    count = data.draw(st.integers(1, shape[axis]))
    x = integers(seed, shape)
    order = np.argsort(x if ascending else -x, axis=axis, kind="stable")
    same(apply("argsort", "int32", x=x, axis=axis, ascending=ascending), order)
    values, indices = apply_all("topk", ("int32", "int32"), x=x, k=count, axis=axis, ascending=ascending)
    expected = np.take(order, range(count), axis)
    same(indices, expected)
    same(values, np.take_along_axis(x, expected, axis))
    same(apply("topk", "int32", x=x, k=-1, axis=axis, ascending=ascending, return_indices=False),
         np.take_along_axis(x, order, axis))  # fmt: skip


def test_many_equal_elements_keep_their_order() -> None:
    """torch's own order of equal elements holds by chance in short rows."""
    x = integers(3, (4, 500))
    same(apply("argsort", "int32", x=x), np.argsort(-x, axis=-1, kind="stable"))


@settings(max_examples=80, deadline=None)
@given(shape=SHAPES, axis=st.integers(0, 3), exclusive=st.booleans(), reverse=st.booleans(), seed=SEEDS)
def test_cumsum(shape: list[int], axis: int, exclusive: bool, reverse: bool, seed: int) -> None:
    axis %= len(shape)
    x = integers(seed, shape)
    moved = np.moveaxis(x, axis, 0)
    expected = np.zeros_like(moved)
    for i in range(shape[axis]):
        part = moved[i:] if reverse else moved[: i + 1]
        expected[i] = part.sum(0) - (moved[i] if exclusive else 0)
    before = x.copy()
    same(
        apply("cumsum", "int32", x=x, axis=axis, exclusive=exclusive, reverse=reverse),
        np.moveaxis(expected, 0, axis),
    )
    same(x, before)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    lower=st.integers(-1, 4),
    upper=st.integers(-1, 4),
    seed=SEEDS,
)
def test_band_part(shape: list[int], lower: int, upper: int, seed: int) -> None:
    x = integers(seed, shape).astype(np.float32)
    expected = x.copy()
    for m, n in np.ndindex(*shape[-2:]):
        if not ((lower < 0 or m - n <= lower) and (upper < 0 or n - m <= upper)):
            expected[..., m, n] = 0
    same(apply("band_part", x=x, lower=lower, upper=upper), expected)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), max_size=3), size=st.integers(1, 5), axis=st.integers(-4, 3), seed=SEEDS
)
def test_one_hot(shape: list[int], size: int, axis: int, seed: int) -> None:
    axis = axis % (len(shape) + 1) - (len(shape) + 1 if axis < 0 else 0)
    indices = np.random.default_rng(seed).integers(-1, size + 1, shape).astype(np.int32)
    expected = np.full((*shape, size), 0.5, np.float32)
    for place in np.ndindex(*shape):
        if 0 <= indices[place] < size:
            expected[(*place, indices[place])] = 2
    found = apply(
        "one_hot",
        indices=indices,
        one_hot_vector_size=size,
        axis=axis,
        on_value=np.float32(2),
        off_value=np.float32(0.5),
    )
    same(found, np.moveaxis(expected, -1, axis))
    same(apply("one_hot", "int32", indices=np.int32([1]), one_hot_vector_size=2), [[0, 1]])


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(-9, 9), end=st.integers(-9, 9), step=st.integers(-3, 3).filter(bool), half=st.booleans()
)
def test_range_is_numpys(start: int, end: int, step: int, half: bool) -> None:
    kind = np.float32 if half else np.int32
    a, b, c = (kind(value) / kind(2) if half else kind(value) for value in (start, end, step))
    same(apply("range_1d", "fp32" if half else "int32", start=a, end=b, step=c), np.arange(a, b, c))


def test_a_range_that_cannot_be_is_refused() -> None:
    for start, end, step in ((0, 1, 0), (0, np.inf, 1), (0, 1e12, 1e-3)):
        with pytest.raises(SourceUnreadable):
            apply("range_1d", start=np.float32(start), end=np.float32(end), step=np.float32(step))
    with pytest.raises(SourceUnreadable):
        apply("one_hot", "int32", indices=np.zeros(1 << 16, np.int32), one_hot_vector_size=1 << 20)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_non_zero_gives_the_coordinates(shape: list[int], seed: int) -> None:
    x = integers(seed, shape)
    same(apply("non_zero", "int32", x=x), np.argwhere(x))


@settings(max_examples=60, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=2, max_size=4), data=st.data(), seed=SEEDS)
def test_reverse_and_reverse_sequence(shape: list[int], data: st.DataObject, seed: int) -> None:
    x, rank = integers(seed, shape), len(shape)
    axes = data.draw(st.lists(st.integers(-rank, rank - 1), unique_by=lambda axis: axis % rank))
    same(
        apply("reverse", "int32", x=x, axes=axes),
        np.flip(x, tuple(axis % rank for axis in axes)) if axes else x,
    )
    same(apply("reverse", "int32", x=x), np.flip(x))
    batch, sequence = data.draw(st.permutations(range(rank)))[:2]
    lengths = np.random.default_rng(seed).integers(0, shape[sequence] + 1, shape[batch]).astype(np.int32)
    expected = x.copy()
    for i, length in enumerate(lengths):
        row = np.moveaxis(expected, (batch, sequence), (0, 1))[i]
        row[:length] = row[:length][::-1].copy()
    found = apply("reverse_sequence", "int32", x=x, lengths=lengths, seq_axis=sequence, batch_axis=batch)
    same(found, expected)


@settings(max_examples=40, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 3)] * 4), block=st.integers(2, 3), seed=SEEDS)
def test_blocks_of_pixels_and_channels(sizes: tuple[int, ...], block: int, seed: int) -> None:
    batch, channels, height, width = sizes
    deep = torch.from_numpy(integers(seed, (batch, channels * block**2, height, width)))
    wide = torch.from_numpy(integers(seed, (batch, channels, height * block, width * block)))
    same(apply("pixel_shuffle", "int32", x=deep, upscale_factor=block), F.pixel_shuffle(deep, block))
    same(apply("pixel_unshuffle", "int32", x=wide, downscale_factor=block), F.pixel_unshuffle(wide, block))
    spaced = np.zeros(wide.shape, np.int32)
    for n, c, y, x in np.ndindex(*wide.shape):
        place = (y % block) * block + x % block
        spaced[n, c, y, x] = deep[n, place * channels + c, y // block, x // block]
    same(apply("depth_to_space", "int32", x=deep, block_size=block), spaced)
    same(apply("space_to_depth", "int32", x=spaced, block_size=block), deep)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 4),
    blocks=st.tuples(*[st.integers(1, 3)] * 2),
    data=st.data(),
    seed=SEEDS,
)
def test_space_to_batch_and_back(
    sizes: tuple[int, ...], blocks: tuple[int, int], data: st.DataObject, seed: int
) -> None:
    _, _, height, width = sizes
    pads = []
    for size, block in ((height, blocks[0]), (width, blocks[1])):
        before = data.draw(st.integers(0, 2))
        pads.append((before, -(size + before) % block))
    x = integers(seed, sizes)
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    expected = [
        padded[:, :, i :: blocks[0], j :: blocks[1]] for i in range(blocks[0]) for j in range(blocks[1])
    ]
    found = apply("space_to_batch", "int32", x=x, block_shape=blocks_of(blocks), paddings=np.int32(pads))
    same(found, np.concatenate(expected))
    same(apply("batch_to_space", "int32", x=found, block_shape=blocks_of(blocks), crops=np.int32(pads)), x)


def blocks_of(blocks: tuple[int, int]) -> Array:
    return np.array(blocks, np.int32)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, axis=st.integers(-4, 3), stride=st.integers(1, 3), data=st.data(), seed=SEEDS)
def test_sliding_windows(shape: list[int], axis: int, stride: int, data: st.DataObject, seed: int) -> None:
    axis = axis % len(shape)
    size = data.draw(st.integers(1, shape[axis]))
    x = integers(seed, shape)
    windows = np.lib.stride_tricks.sliding_window_view(x, size, axis)
    expected = np.moveaxis(np.take(windows, range(0, windows.shape[axis], stride), axis), -1, axis + 1)
    same(apply("sliding_windows", "int32", x=x, axis=axis, size=size, stride=stride), expected)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 8),
    kinds=st.integers(1, 3),
    limit=st.floats(0.05, 0.9),
    by_class=st.booleans(),
    seed=SEEDS,
)
def test_suppression_is_greedy(count: int, kinds: int, limit: float, by_class: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.concatenate((rng.uniform(0, 3, (count, 2)), rng.uniform(0.5, 3, (count, 2))), 1).astype(
        np.float32
    )
    scores = rng.permutation(count * kinds).reshape(count, kinds).astype(np.float32)
    most = 5

    def overlap(a: Array, b: Array) -> float:
        low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
        high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
        common = float(np.prod(np.maximum(high - low, 0)))
        return common / (float(np.prod(a[2:])) + float(np.prod(b[2:])) - common)

    chosen: list[int] = []
    for n in np.argsort(-scores.max(1)):
        rivals = [m for m in chosen if not by_class or scores[m].argmax() == scores[n].argmax()]
        if all(overlap(boxes[n], boxes[m]) <= np.float32(limit) for m in rivals):
            chosen.append(int(n))
    chosen = chosen[:most]
    named = {"iou_threshold": np.float32(limit), "max_boxes": most, "per_class_suppression": by_class}
    found = apply_all(
        "non_maximum_suppression", ("fp32", "fp32", "int32", "int32"), boxes=boxes[None], scores=scores[None],
        score_threshold=np.float32(-1), **named,
    )  # fmt: skip
    same(found[2], [chosen + [-1] * (most - len(chosen))])
    same(found[3], [len(chosen)])
    same(found[0][0, : len(chosen)], boxes[chosen])
    same(found[1][0, len(chosen) :], np.zeros((most - len(chosen), kinds)))
    newer = apply_all(
        "non_maximum_suppression",
        ("fp32", "fp32", "int32"),
        boxes=boxes.T[None],
        scores=scores.T[None],
        **named,
    )
    same(newer[0], found[0].transpose(1, 2))
    same(newer[1], found[1].transpose(1, 2))
    same(newer[2], found[2])


def test_classify_names_the_best_class() -> None:
    label, chances = apply_all(
        "classify", ("string", ""), probabilities=np.float32([[0.2, 0.5, 0.3]]), classes=("a", "b", "c")
    )
    assert label == "b"
    np.testing.assert_allclose(chances, [0.2, 0.5, 0.3])
    label, _ = apply_all(
        "classify", ("int64", ""), probabilities=np.float32([0.2, 0.8]), classes=np.array([7, 9])
    )
    assert label == 9
    with pytest.raises(SourceUnreadable, match="2 classes for 3"):
        apply_all("classify", ("string", ""), probabilities=np.zeros(3), classes=("a", "b"))
