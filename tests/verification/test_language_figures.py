"""Perplexity, KL divergence and the distance of logits, against their formulas written out."""

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.targets.errors import SourceUnreadable
from modelport.verification import language_figures as figures
from modelport.verification.language_figures import Comparison, Recorded, Recorder, log_probabilities


def logits(rows: int, width: int, seed: int, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, width)) * scale).astype(np.float32)


def compared(reference: np.ndarray, other: np.ndarray) -> Comparison:
    """Logits against logits, the reference rounded as it is kept."""
    made = Comparison()
    made.add(log_probabilities(reference).astype(np.float16), log_probabilities(other))
    return made


def exact_divergence(reference: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL of each row in float64, by definition; and by how much 11 bits of mantissa may move it."""
    p = np.exp(reference.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    q = np.exp(other.astype(np.float64))
    q /= q.sum(1, keepdims=True)
    # A relative change of p by r moves the sum by r · log(p / q) at the most, and the norm by as much again.
    rounding = np.abs(np.log(p)) * 2.0**-11
    return (p * np.log(p / q)).sum(1), 2 * (p * rounding * np.abs(np.log(p / q))).sum(1) + 3e-6


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 30), width=st.integers(2, 300), seed=st.integers(0, 999), noise=st.floats(1e-3, 2))
def test_divergence_is_the_formula_although_rows_are_kept_in_16_bits(rows, width, seed, noise) -> None:
    reference = logits(rows, width, seed)
    other = reference + logits(rows, width, seed + 1, noise)
    found = compared(reference, other).divergence()
    expected, slack = exact_divergence(reference, other)
    assert found["mean"] == pytest.approx(expected.mean(), rel=1e-5, abs=slack.mean())
    assert found["p99"] == pytest.approx(np.percentile(expected, 99), rel=1e-5, abs=slack.max())
    if rows > 1:
        error = expected.std(ddof=1) / math.sqrt(rows)
        assert found["stderr"] == pytest.approx(error, rel=1e-5, abs=2 * slack.max())
    assert found["mean"] > -1e-6


def test_equal_models_are_exact_and_agree_everywhere() -> None:
    same = logits(20, 100, 0)
    made = compared(same, same)
    found = made.logits()
    assert found["exact"] is True
    assert found["sqnr_db"] is None
    assert found["top1_agreement"] == 1.0
    assert found["cosine"] == pytest.approx(1)
    assert found["max_abs"] == 0
    assert made.divergence()["mean"] == pytest.approx(0, abs=1e-6)


def test_a_constant_added_to_a_row_changes_nothing() -> None:
    reference = logits(10, 64, 0)
    other = reference + np.float32(0.05) * logits(10, 64, 1)
    shifted = other + np.arange(10, dtype=np.float32)[:, None] * 8
    one, two = compared(reference, other).logits(), compared(reference, shifted).logits()
    assert one["cosine"] == pytest.approx(two["cosine"], abs=1e-5)
    assert one["sqnr_db"] == pytest.approx(two["sqnr_db"], abs=0.1)


def test_unrelated_models_have_no_cosine_although_their_log_probabilities_are_alike() -> None:
    """All log-probabilities lie near −log(vocabulary), so a plain cosine would say 0.9."""
    found = compared(logits(50, 2000, 0, 1.0), logits(50, 2000, 1, 1.0)).logits()
    assert abs(found["cosine"]) < 0.05
    assert found["top1_agreement"] < 0.1


def test_cosine_and_agreement_are_of_single_positions() -> None:
    reference = logits(8, 50, 0)
    other = reference.copy()
    other[3] = -other[3]
    found = compared(reference, other).logits()
    assert found["cosine_min"] == pytest.approx(-1, abs=1e-3)
    assert found["cosine"] == pytest.approx((7 - 1) / 8, abs=1e-3)
    assert found["top1_agreement"] == pytest.approx(7 / 8)


def test_values_that_are_not_finite_are_counted_and_no_figure_is_made_up() -> None:
    reference = logits(4, 30, 0)
    other = log_probabilities(reference)
    other[1, 3] = np.nan
    made = Comparison()
    made.add(log_probabilities(reference).astype(np.float16), other)
    assert made.logits()["non_finite"] == 1
    assert made.logits()["max_abs"] is None
    assert made.divergence() == {"mean": None, "stderr": None, "p99": None}


def test_a_padded_vocabulary_is_compared_over_what_both_have() -> None:
    reference = logits(6, 40, 0)
    padded = np.concatenate([reference, np.full((6, 24), 1.5, np.float32)], axis=1)
    made = compared(reference, padded)
    assert made.logits()["cosine"] == pytest.approx(1, abs=1e-5)
    assert made.divergence()["mean"] == pytest.approx(0, abs=1e-5)


def test_blocks_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, other = logits(37, 50, 0), logits(37, 50, 1)
    whole = compared(reference, other)
    monkeypatch.setattr(figures, "BLOCK", 128)
    parts = compared(reference, other)
    assert parts.logits() == pytest.approx(whole.logits())
    assert parts.divergence() == pytest.approx(whole.divergence())


def test_perplexity_and_its_error_are_llama_cpps() -> None:
    found = np.log(np.array([0.5, 0.25, 0.125, 0.5], np.float32))
    losses = -np.log([0.5, 0.25, 0.125, 0.5])
    value = math.exp(losses.mean())
    error = value * math.sqrt((np.mean(losses**2) - losses.mean() ** 2) / 3)
    assert figures.perplexity(found) == {"value": pytest.approx(value), "stderr": pytest.approx(error)}
    assert figures.perplexity(np.array([-np.inf], np.float32)) == {"value": None, "stderr": None}
    even = log_probabilities(np.zeros((9, 50), np.float32))
    assert figures.perplexity(even[:, 0])["value"] == pytest.approx(50)


def test_the_second_half_of_a_window_is_evaluated_by_the_tokens_that_follow() -> None:
    window = np.arange(10, 20)
    first = figures.first_position(10)
    rows = np.tile(np.arange(40, dtype=np.float32), (10 - 1 - first, 1))
    assert first == 5
    np.testing.assert_array_equal(figures.targets(rows, window), [16, 17, 18, 19])


@pytest.mark.parametrize(
    ("vocabulary", "parameters", "expected"),
    [(768, 2_000_000, 16), (32_000, 1_100_000_000, 16), (128_256, 1_200_000_000, 4), (256_000, 7e10, 1)],
)
def test_how_much_is_run_is_bounded_by_bytes_and_by_work(vocabulary, parameters, expected) -> None:
    assert figures.windows_to_run(16, 256, vocabulary, int(parameters)) == expected
    rows = 255 - 128
    assert expected == 1 or expected * rows * vocabulary * 2 <= figures.ROW_BYTES


def test_recorded_rows_come_back_and_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    windows = np.random.default_rng(0).integers(0, 30, (3, 12))
    rows = [log_probabilities(logits(5, 30, n)) for n in range(3)]
    for name in ("a.npz", "b.npz"):
        with Recorder(tmp_path / name, "float16 in llama.cpp") as recorder:
            for row, window in zip(rows, windows, strict=True):
                recorder.add(row, window)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with Recorded(tmp_path / "a.npz") as found:
        assert (found.count, found.against) == (3, "float16 in llama.cpp")
        np.testing.assert_array_equal(found.rows(1), rows[1].astype(np.float16))
        expected = np.concatenate([figures.targets(r, w) for r, w in zip(rows, windows, strict=True)])
        np.testing.assert_array_equal(found.targets, expected)


def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "reference.npz").write_bytes(b"no archive")
    with pytest.raises(SourceUnreadable, match=r"reference\.npz"):
        Recorded(tmp_path / "reference.npz")
    with zipfile.ZipFile(tmp_path / "reference.npz", "w") as archive:
        archive.writestr("other.npy", b"")
    with pytest.raises(SourceUnreadable, match=r"reference\.npz"):
        Recorded(tmp_path / "reference.npz")
