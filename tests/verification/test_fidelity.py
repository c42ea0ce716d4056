"""Fidelity figures: what they are for known arrays, and what always holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from modelport.verification.fidelity import compare_output, cosine, crop, holds_classes, sqnr_db

VALUES = arrays(np.float32, st.integers(1, 20), elements=st.floats(-1000, 1000, width=32))


def test_a_tenth_of_the_amplitude_as_noise_is_20_db() -> None:
    reference = np.array([1.0, -1.0, 1.0])
    assert sqnr_db(reference, reference * 1.1) == pytest.approx(20)


@given(VALUES)
def test_equal_arrays_are_perfect(values: np.ndarray) -> None:
    assert sqnr_db(values, values) == math.inf
    assert cosine(values, values) == pytest.approx(1)


@given(VALUES, st.floats(0.125, 8))
def test_cosine_does_not_see_a_scale_and_sqnr_does(values: np.ndarray, scale: float) -> None:
    if not np.linalg.norm(values) > 1e-3:
        return
    assert cosine(values, values * np.float32(scale)) == pytest.approx(1, abs=1e-5)
    if abs(scale - 1) > 0.01:
        assert sqnr_db(values, values * np.float32(scale)) == pytest.approx(
            -20 * math.log10(abs(scale - 1)), abs=0.1
        )


def test_a_collapsed_output_is_no_match() -> None:
    assert cosine(np.ones(4), np.zeros(4)) == 0
    assert sqnr_db(np.ones(4), np.zeros(4)) == pytest.approx(0)
    assert sqnr_db(np.ones(4), np.full(4, np.nan)) == -math.inf


def test_padding_of_the_artifact_is_cut_off() -> None:
    assert crop(np.zeros((1, 128, 8)), (1, 5, 8)).shape == (1, 5, 8)
    assert crop(np.zeros((1, 10)), (1, 10)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("logits", (1, 10), True),
        ("output_0", (1, 10), True),
        ("sentence_embedding", (1, 384), False),
        ("last_hidden_state", (1, 5, 384), False),
        ("logits", (1, 1), False),
    ],
)
def test_top1_is_for_class_scores(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert holds_classes(name, shape) is expected


def test_agreement_and_accuracy_are_counted_per_sample() -> None:
    references = [
        np.array([[0.0, 1.0]]),
        np.array([[1.0, 0.0]]),
        np.array([[0.0, 2.0]]),
        np.array([[3.0, 0.0]]),
    ]
    actuals = [*references[:3], np.array([[0.0, 3.0]])]
    figures = compare_output("logits", references, actuals, np.array([1, 1, 1, 0]))
    assert figures["top1_agreement"] == 0.75
    assert figures["source_accuracy"] == 0.75
    assert figures["accuracy"] == 0.5
    assert figures["max_abs"] == 3


def test_nan_in_the_artifact_is_counted_and_never_a_figure() -> None:
    figures = compare_output("x", [np.ones((1, 3, 2))], [np.full((1, 3, 2), np.nan)])
    assert figures["non_finite"] == 6
    assert figures["sqnr_db"] is None
    assert figures["max_abs"] is None
    assert figures["cosine"] == 0


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(1, 2\)"):
        compare_output("logits", [np.zeros((1, 3))], [np.zeros((1, 2))])
