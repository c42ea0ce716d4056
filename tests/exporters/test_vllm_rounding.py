"""Rounding rows to int8 and float8: no error above half a step, and the corner cases that torch has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelport.exporters.runtimes.vllm import rounding

DTYPES = ("bfloat16", "float16", "float32")
KINDS = ("int8", "float8_e4m3")
VALUES = st.floats(-1000, 1000, width=32)
MATRICES = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=VALUES)


def stored(rows: Any, kind: str) -> tuple[Any, Any]:
    scale = rounding.scales(rows, kind)
    return rounding.quantize(rows, scale, kind), scale


@given(MATRICES, st.sampled_from(DTYPES), st.sampled_from(KINDS))
def test_what_comes_back_is_near(matrix: Any, dtype: str, kind: str) -> None:
    rows = matrix.astype(rounding.NUMPY[dtype])
    found, scale = stored(rows, kind)
    assert (scale > 0).all()
    back = found.astype(np.float64) * scale.astype(np.float64)
    exact = rows.astype(np.float64)
    largest = np.maximum(np.abs(exact).max(axis=1, keepdims=True), 1e-30)
    tiny = largest <= float(rounding.epsilon(rows.dtype)) * 128
    # Steps of 1/127.5, and of 2^-4 of each value; the division itself rounds to the weights' own dtype.
    step = 0.5 / 127.5 + 0.004 if kind == "int8" else 2.0**-4 + 0.01
    near = np.abs(back - exact) <= largest * step + 1e-9
    assert (near | tiny).all()


@given(MATRICES, st.sampled_from(DTYPES))
def test_the_greatest_value_takes_the_greatest_number(matrix: Any, dtype: str) -> None:
    rows = matrix.astype(rounding.NUMPY[dtype])
    found, _ = stored(rows, "int8")
    normal = np.abs(rows.astype(np.float64)).max(axis=1) > 0.1
    assert (np.abs(found.astype(int)).max(axis=1)[normal] >= 126).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_has_a_scale_and_no_negative_zero(dtype: str, kind: str) -> None:
    rows = np.zeros((2, 8), rounding.NUMPY[dtype])
    rows[1] = -0.0
    found, scale = stored(rows, kind)
    assert (scale == rounding.epsilon(rows.dtype)).all()
    assert not found.view(np.uint8).any()


def test_halves_go_to_the_even_number() -> None:
    rows = np.array([[127.5, 2.5, 3.5, -2.5, -3.5]], np.float32)
    found, scale = stored(rows, "int8")
    assert scale == 1
    assert found.tolist() == [[127, 2, 4, -2, -4]]


def test_a_bfloat16_quotient_is_rounded_before_it_is_rounded_to_an_integer() -> None:
    # 100.3 / 1 is 100.5 in bfloat16, and goes to the even 100.
    rows = np.array([[127.5, 100.3]], np.float32).astype(ml_dtypes.bfloat16)
    found, _ = stored(rows, "int8")
    assert found.tolist() == [[127, 100]]


def test_slabs_of_rows_give_what_the_whole_gives() -> None:
    rows = np.random.default_rng(1).standard_normal((9, 33)).astype(ml_dtypes.bfloat16)
    whole = stored(rows, "float8_e4m3")
    parts = [stored(rows[at : at + 2], "float8_e4m3") for at in range(0, 9, 2)]
    for number in (0, 1):
        joined = np.concatenate([part[number] for part in parts])
        assert np.array_equal(joined.view(np.uint8), whole[number].view(np.uint8))
