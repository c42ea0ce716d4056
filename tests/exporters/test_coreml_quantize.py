"""The arithmetic of Core ML's quantization, without coremltools: codes of activations, int4 blocks, schemes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modelport.exporters.runtimes.coreml import activations, blocks, weights
from modelport.targets.errors import UsageError

SIDES = st.one_of(st.just(0.0), st.floats(1e-5, 6e4))


def decoded(values: np.ndarray, how: activations.Code) -> np.ndarray:
    """The values through MIL's quantize and dequantize: clip(round(x / scale) + zero) and back."""
    limits = np.iinfo(how.dtype)
    stored = np.clip(np.rint(values / how.scale) + how.zero, limits.min, limits.max)
    return (stored - how.zero) * how.scale


@given(SIDES, SIDES)
def test_every_value_of_the_range_is_within_half_a_step_and_zero_is_exact(below: float, above: float) -> None:
    how = activations.code(-below, above)
    values = np.append(np.linspace(-below, above, 300), 0.0)
    read = decoded(values, how)
    assert np.abs(read - values).max() <= how.scale * 0.5001
    assert read[-1] == 0.0


@given(SIDES, SIDES)
def test_a_scale_is_a_float16_so_that_the_cast_to_half_does_not_move_it(below: float, above: float) -> None:
    scale = activations.code(-below, above).scale
    assert float(np.float16(scale)) == scale > 0


@given(SIDES, SIDES)
def test_a_step_is_at_most_a_third_wider_than_256_levels_would_have_it(below: float, above: float) -> None:
    how = activations.code(-below, above)
    span = below + above
    assume(span > 0)
    # A symmetric code of a range with sides a >= b >= a / 2 spans 2a where a + b would do; float16 has steps.
    assert how.scale <= max(span / 255 * 4 / 3 * 1.01, 2**-14)


def test_a_zero_point_is_used_only_where_the_range_is_lopsided() -> None:
    assert activations.code(0.0, 6.0).dtype == "uint8"
    assert activations.code(0.0, 6.0).zero == 0
    assert activations.code(-3.0, 4.0).dtype == "int8"
    assert activations.code(-3.0, 4.0).zero == 0
    assert activations.code(-0.2, 6.0).zero < -100
    assert activations.code(-6.0, 0.2).zero > 100
    assert activations.code(0.0, 0.0).scale == 1.0


SHAPES = st.sampled_from(
    [((4, 32), (1, 32)), ((3, 48), (1, 24)), ((2, 32, 3, 3), (1, 16, 0, 0)), ((64, 5), (32, 1))]
)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1), st.sampled_from(["float16", "float32"]), st.floats(1e-4, 1e3))
def test_int4_blocks_lose_less_than_the_largest_weight_as_the_scale(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int, dtype: str, spread: float
) -> None:
    shape, sizes = shapes
    values = (np.random.default_rng(seed).standard_t(4, shape) * spread).clip(-6e4, 6e4).astype(dtype)
    integers, scales = blocks.quantized(values, sizes)
    assert integers.min() >= -8
    assert integers.max() <= 7
    assert integers.shape == shape
    assert scales.dtype == values.dtype
    step = expanded(scales, shape).astype(np.float64)
    exact = values.astype(np.float64)
    mine = np.square(exact - integers * step).sum()
    largest = block_largest(np.abs(exact), scales.shape) / 7
    plain = expanded(largest.astype(dtype).astype(np.float64), shape)
    theirs = np.square(exact - np.clip(np.rint(exact / plain), -7, 7) * plain).sum()
    assert mine <= theirs * 1.001


def expanded(scales: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One number a block, repeated over its block."""
    for axis, (size, count) in enumerate(zip(shape, scales.shape, strict=True)):
        scales = np.repeat(scales, size // count, axis)
    return scales


def block_largest(values: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """The largest value of each block."""
    for axis, count in enumerate(counts):
        values = np.stack([part.max(axis) for part in np.split(values, count, axis)], axis)
    return values


def test_a_block_of_zeros_stays_zero() -> None:
    integers, scales = blocks.quantized(np.zeros((2, 32), np.float16), (1, 32))
    assert not integers.any()
    assert (scales == 1).all()


def test_rows_are_searched_in_slices_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)
    whole = blocks.quantized(values, (1, 16))
    monkeypatch.setattr(blocks, "SLICE", 100)
    parts = blocks.quantized(values, (1, 16))
    assert (whole[0] == parts[0]).all()
    assert (whole[1] == parts[1]).all()


def test_palettes_are_named_by_their_bits() -> None:
    assert weights.palette_bits("palette4") == weights.palette_bits("palettized") == 4
    assert weights.palette_bits("palette8") == 8
    assert weights.palette_bits("int8-weight") is None
    with pytest.raises(UsageError, match="no palette of 5 bits"):
        weights.palette_bits("palette5")


def test_each_scheme_knows_the_first_system_that_reads_it() -> None:
    schemes = ("fp16", "int8", "int8-weight", "int4-weight", "palette2")
    assert [weights.least_target(name) for name in schemes] == ["iOS15", "iOS17", "iOS16", "iOS18", "iOS16"]
