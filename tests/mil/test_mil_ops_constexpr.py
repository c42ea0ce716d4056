"""Compressed constants against what they were made of: packed, palettized, blockwise quantized and sparse values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_calls import apply, apply_all
from modelport.targets.errors import SourceUnreadable

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
SEEDS = st.integers(0, 2**16)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape, and blocks a axis that divide it."""
    pairs = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4))
    return tuple(a * b for a, b in pairs), tuple(a for a, _ in pairs)


def spread(value: Array, shape: tuple[int, ...]) -> Array:
    """`value` repeated to `shape`, each of its elements for a block of neighbours."""
    for axis, size in enumerate(shape):
        value = np.repeat(value, size // value.shape[axis], axis)
    return value


def packed(values: Array, bits: int) -> Array:
    """Unsigned integers of `bits` bits, bit by bit from the lowest on: the documentation's example in code."""
    stream = [int(value) >> bit & 1 for value in values.reshape(-1) for bit in range(bits)]
    stream += [0] * (-len(stream) % 8)
    return np.array(
        [
            sum(bit << place for place, bit in enumerate(stream[at : at + 8]))
            for at in range(0, len(stream), 8)
        ],
        np.uint8,
    )


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    axis=st.integers(-4, 3),
    vector=st.booleans(),
    seed=SEEDS,
)
@settings(max_examples=60, deadline=None)
def test_affine_dequantize(shape: list[int], axis: int, vector: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    axis = axis % len(shape)
    data = rng.integers(-128, 128, shape).astype(np.int8)
    count = shape[axis] if vector else 1
    scale = rng.uniform(0.01, 1, count).astype(np.float32)
    zero = rng.integers(-128, 128, count).astype(np.int8)
    view = [-1 if place == axis else 1 for place in range(len(shape))]
    expected = scale.reshape(view) * (data.astype(np.float32) - zero.reshape(view).astype(np.float32))
    squeeze = (lambda v: v) if vector else (lambda v: v.reshape(()))
    found = apply(
        "constexpr_affine_dequantize",
        quantized_data=data,
        scale=squeeze(scale),
        zero_point=squeeze(zero),
        axis=axis,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@given(case=blocks(), offset=st.sampled_from([None, np.int8, np.float32]), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_blockwise_shift_scale(case: tuple[tuple[int, ...], tuple[int, ...]], offset: Any, seed: int) -> None:
    shape, counts = case
    rng = np.random.default_rng(seed)
    data = rng.integers(-8, 8, shape).astype(np.int8)
    scale = rng.uniform(0.01, 1, counts).astype(np.float32)
    shift = None if offset is None else rng.integers(-8, 8, counts).astype(offset)
    expected = spread(scale, shape) * (
        data - (0 if shift is None else spread(shift, shape).astype(np.float32))
    )
    np.testing.assert_allclose(
        apply("constexpr_blockwise_shift_scale", data=data, scale=scale, offset=shift), expected, rtol=1e-6
    )


@given(
    bits=st.sampled_from([1, 2, 4, 6, 8]),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=SEEDS,
)
@settings(max_examples=60, deadline=None)
def test_a_palette_of_ios16_is_packed_bit_by_bit(bits: int, shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    lut = rng.normal(size=2**bits).astype(np.float32)
    indices = rng.integers(0, 2**bits, shape).astype(np.uint8)
    found = apply("constexpr_lut_to_dense", indices=packed(indices, bits), lut=lut, shape=np.array(shape))
    np.testing.assert_array_equal(found, lut[indices])


@st.composite
def palettes(draw: st.DrawFn) -> dict[str, Any]:
    shape, counts = draw(blocks())
    bits, width = draw(st.sampled_from([1, 2, 3, 4, 6])), draw(st.integers(1, 3))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return {"shape": shape, "counts": counts, "bits": bits, "width": width, "axis": axis, "seed": draw(SEEDS)}


def looked_up(indices: Array, lut: Array, axis: int) -> Array:
    """The dense form by the words of the documentation, one index after the other."""
    width = lut.shape[-1]
    shape = list(indices.shape)
    shape[axis] *= width
    dense = np.zeros(shape, lut.dtype)
    for place in np.ndindex(indices.shape):
        group = tuple(at * n // size for at, n, size in zip(place, lut.shape, indices.shape, strict=False))
        for v in range(width):
            target = list(place)
            target[axis] = place[axis] * width + v
            dense[tuple(target)] = lut[(*group, int(indices[place]), v)]
    return dense


@given(case=palettes())
@settings(max_examples=60, deadline=None)
def test_palettes_of_ios18_by_block_and_vector(case: dict[str, Any]) -> None:
    rng = np.random.default_rng(case["seed"])
    lut = rng.normal(size=(*case["counts"], 2 ** case["bits"], case["width"])).astype(np.float32)
    indices = rng.integers(0, 2 ** case["bits"], case["shape"]).astype(np.uint8)
    found = apply("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=case["axis"])
    np.testing.assert_array_equal(found, looked_up(indices, lut, case["axis"]))


@given(case=palettes())
@settings(max_examples=60, deadline=None)
def test_sparse_palettes_name_the_values_that_are_not_zero(case: dict[str, Any]) -> None:
    rng = np.random.default_rng(case["seed"])
    lut = rng.normal(size=(*case["counts"], 2 ** case["bits"], case["width"])).astype(np.float32)
    mask = rng.integers(0, 2, case["shape"]).astype(np.uint8)
    indices = rng.integers(0, 2 ** case["bits"], case["shape"]).astype(np.uint8)
    out_mask, values = apply_all(
        "constexpr_lut_to_sparse", ("uint1", "fp32"), indices_mask=mask,
        indices_nonzero_data=indices[mask != 0], lut=lut, vector_axis=case["axis"],
    )  # fmt: skip
    dense = apply("constexpr_sparse_to_dense", nonzero_data=values, mask=out_mask)
    expected = looked_up(indices, lut, case["axis"]) * np.repeat(mask, case["width"], case["axis"])
    np.testing.assert_array_equal(dense, expected)


@given(case=blocks(), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_sparse_blocks(case: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    shape, counts = case
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, shape).astype(np.uint8)
    data = rng.integers(-8, 8, shape).astype(np.int8)
    scale, shift = (
        rng.uniform(0.01, 1, counts).astype(np.float32),
        rng.integers(-8, 8, counts).astype(np.int8),
    )
    _, values = apply_all(
        "constexpr_sparse_blockwise_shift_scale", ("uint1", "fp32"), data_mask=mask,
        nonzero_data=data[mask != 0], scale=scale, offset=shift,
    )  # fmt: skip
    expected = spread(scale, shape) * (data - spread(shift, shape).astype(np.float32))
    np.testing.assert_allclose(values, expected[mask != 0], rtol=1e-6)


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), old=st.booleans(), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_sparse_values_stand_where_the_mask_is_set(shape: list[int], old: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, shape).astype(np.uint8)
    dense = rng.normal(size=shape).astype(np.float32) * mask
    form = {"mask": packed(mask, 1), "shape": np.array(shape)} if old else {"mask": mask}
    found = apply("constexpr_sparse_to_dense", nonzero_data=dense[mask != 0], **form)
    np.testing.assert_array_equal(found, dense)


def test_the_examples_of_the_documentation() -> None:
    lut = np.array([1, 5, 9, 13, 2, 10, 18, 26], np.float32).reshape(2, 1, 4, 1)
    indices = np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], np.uint8).reshape(6, 2)
    found = apply("constexpr_lut_to_dense", indices=indices, lut=lut)
    assert found.tolist() == [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    assert packed(np.array([0, 3, 2, 1, 3]), 2).tolist() == [0b01101100, 0b00000011]
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], np.uint8)
    _, values = apply_all(
        "constexpr_sparse_blockwise_shift_scale", ("uint1", "fp32"), data_mask=mask,
        nonzero_data=np.array([10, 11, 3, 4, 5, 6, 7, 8, 9], np.int8),
        scale=np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), offset=np.array([[1, 2, 3, 4]], np.int8),
    )  # fmt: skip
    np.testing.assert_allclose(values, [0.9, 1.8, 0.2, 0.4, 0.6, 0.9, 1.2, 0.7, 1.4], rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "inputs", "words"),
    [
        (
            "constexpr_lut_to_dense",
            {"indices": np.zeros(3, np.uint8), "lut": np.zeros(4), "shape": [5]},
            "3 bytes",
        ),
        (
            "constexpr_lut_to_dense",
            {"indices": np.zeros(1, np.uint8), "lut": np.zeros(3), "shape": [5]},
            "palette",
        ),
        (
            "constexpr_lut_to_dense",
            {"indices": np.uint8([[4]]), "lut": np.zeros((1, 1, 4, 1))},
            "the index 4",
        ),
        ("constexpr_lut_to_dense", {"indices": np.uint8([0]), "lut": np.zeros((1, 2, 2))}, "vector_axis"),
        ("constexpr_lut_to_dense", {"indices": np.uint8([0, 0]), "lut": np.zeros((3, 2, 1))}, "blocks"),
        ("constexpr_sparse_to_dense", {"nonzero_data": np.zeros(3), "mask": np.uint8([1, 0])}, "mask of 1"),
        (
            "constexpr_sparse_to_dense",
            {"nonzero_data": np.zeros(0), "mask": np.zeros(1, np.uint8), "shape": np.array([2**40])},
            "elements",
        ),
        ("constexpr_blockwise_shift_scale", {"data": np.zeros((4, 4)), "scale": np.ones((3, 4))}, "blocks"),
        ("constexpr_blockwise_shift_scale", {"data": np.zeros((4, 4)), "scale": np.ones(4)}, "scales"),
        (
            "constexpr_affine_dequantize",
            {"quantized_data": np.int8([1, 2]), "scale": np.ones(3), "zero_point": np.int8(0), "axis": 0},
            "scales",
        ),
        (
            "constexpr_affine_dequantize",
            {"quantized_data": np.int8([1, 2]), "scale": np.ones(2), "zero_point": np.int8(0), "axis": 1},
            "axis 1",
        ),
    ],
)
def test_damage_is_one_clear_error(kind: str, inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceUnreadable, match=words):
        apply(kind, **inputs)
