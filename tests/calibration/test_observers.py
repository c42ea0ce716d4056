"""Observers are exact where they promise it, independent of order, and better than min-max on heavy tails."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelport.calibration.histogram import BINS, SAMPLE, Histogram, subsample
from modelport.calibration.observers import OBSERVERS, make
from modelport.targets.errors import UsageError

MAGNITUDES = st.floats(2.0**-20, 2.0**100, width=32)
FLOATS = st.one_of(st.just(0.0), MAGNITUDES, MAGNITUDES.map(lambda value: -value))
RELAXED = settings(max_examples=40, deadline=None)  # the first example compiles and imports
ARRAYS = hnp.arrays(np.float32, st.integers(1, 60), elements=FLOATS)


def ranged(name: str, *arrays: np.ndarray, **options: object) -> tuple[float, float]:
    observer = make(name, **options)()
    for array in arrays:
        observer.observe(array)
    return observer.range()


def quantized(values: np.ndarray, low: float, high: float, levels: int = 255) -> np.ndarray:
    step = (high - low) / levels
    zero = round(-low / step)
    return (np.clip(np.round(values / step) + zero, 0, levels) - zero) * step


def squared_error(values: np.ndarray, bounds: tuple[float, float], levels: int = 255) -> float:
    return float(np.square(quantized(values, *bounds, levels) - values).mean())


@RELAXED
@given(st.lists(ARRAYS, min_size=1, max_size=4))
def test_minmax_is_exact(arrays: list[np.ndarray]) -> None:
    together = np.concatenate(arrays)
    assert ranged("minmax", *arrays, include_zero=False) == (together.min(), together.max())


@RELAXED
@given(st.lists(ARRAYS, min_size=1, max_size=4), st.sampled_from(OBSERVERS), st.booleans())
def test_ranges_hold_zero_inside_minmax(arrays: list[np.ndarray], name: str, symmetric: bool) -> None:
    low, high = ranged(name, *arrays, symmetric=symmetric)
    smallest, largest = ranged("minmax", *arrays, symmetric=symmetric)
    assert smallest <= low <= 0 <= high <= largest
    if symmetric:
        assert low == -high


@RELAXED
@given(st.lists(ARRAYS, min_size=1, max_size=5), st.randoms())
def test_the_order_of_observations_does_not_matter(arrays: list[np.ndarray], random: object) -> None:
    shuffled = list(arrays)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for name in OBSERVERS:
        assert ranged(name, *arrays) == ranged(name, *shuffled)


@RELAXED
@given(st.lists(ARRAYS, min_size=1, max_size=5))
def test_one_pass_counts_what_two_passes_would(arrays: list[np.ndarray]) -> None:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    together = np.concatenate(arrays)
    assert len(histogram.counts) <= BINS
    assert histogram.edges[0] <= together.min()
    assert together.max() < histogram.edges[-1]
    expected, _ = np.histogram(together.astype(np.float64), bins=histogram.edges)
    np.testing.assert_array_equal(histogram.counts, expected)
    folded = np.floor(np.abs(together.astype(np.float64)) / histogram.width)
    # A negative value on an edge belongs to the bin below zero that ends there.
    edge = (together < 0) & (folded * histogram.width == np.abs(together.astype(np.float64)))
    np.testing.assert_array_equal(
        histogram.folded()[histogram.folded() > 0], np.unique(folded - edge, return_counts=True)[1]
    )


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_mse_beats_minmax_on_heavy_tails(seed: int, symmetric: bool) -> None:
    values = np.random.default_rng(seed).standard_t(2.5, 100_000).astype(np.float32)
    levels = 254 if symmetric else 255
    best = squared_error(values, ranged("mse", values, symmetric=symmetric), levels)
    assert best < 0.95 * squared_error(values, ranged("minmax", values, symmetric=symmetric), levels)


def test_mse_is_close_to_the_best_range_found_by_trying_all() -> None:
    values = np.random.default_rng(5).laplace(size=50_000).astype(np.float32)
    tried = [
        squared_error(values, (-low, high))
        for low in np.linspace(2, 11, 25)
        for high in np.linspace(2, 11, 25)
    ]
    assert squared_error(values, ranged("mse", values)) < 1.03 * min(tried)


def test_percentile_cuts_the_share_that_it_names() -> None:
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    low, high = ranged("percentile:99", values)
    assert np.mean((values < low) | (values > high)) == pytest.approx(0.01, abs=0.0005)
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [0.5, 99.5])), abs=0.005)
    bound = ranged("percentile:99", values, symmetric=True)[1]
    assert bound == pytest.approx(float(np.percentile(np.abs(values), 99)), abs=0.005)


def test_entropy_ignores_a_lone_outlier_and_keeps_a_uniform_range() -> None:
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    low, high = ranged("entropy", np.append(values, np.float32(80)))
    assert high < 8
    assert low >= values.min()
    even = np.random.default_rng(0).uniform(0, 6, 200_000).astype(np.float32)
    assert ranged("entropy", even)[1] == pytest.approx(6, rel=0.02)


@pytest.mark.parametrize("name", OBSERVERS)
def test_values_that_are_not_finite_are_left_out(name: str) -> None:
    values = np.array([1, -2, np.nan, np.inf, -np.inf], np.float32)
    low, high = ranged(name, values)
    assert -2 <= low <= 0 <= high <= 1
    with pytest.raises(ValueError, match="no finite value"):
        ranged(name, np.array([np.nan], np.float32))


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("value", [0.0, 7.5, -3e38, 1e-44])
def test_a_constant_tensor_gives_its_own_value(name: str, value: float) -> None:
    constant = np.full((2, 3), value, np.float32)
    assert ranged(name, constant) == (min(0.0, constant[0, 0]), max(0.0, constant[0, 0]))


@pytest.mark.parametrize("name", OBSERVERS)
def test_half_precision_and_integers_are_taken(name: str) -> None:
    low, high = ranged(name, np.array([1, 2], np.float16), np.array([[-3]], np.int64), include_zero=False)
    assert -3 <= low <= high <= 2


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 90), st.integers(1, 90), st.integers(1, 70)))
def test_a_subsample_is_bounded_and_sees_every_channel(shape: tuple[int, ...]) -> None:
    channel = np.broadcast_to(np.arange(shape[-1], dtype=np.float32), shape).reshape(-1)
    part = subsample(channel, shape)
    assert len(part) <= SAMPLE + 1
    if channel.size > SAMPLE:
        assert len(np.unique(part)) == shape[-1]


def test_an_unknown_observer_names_the_known_ones() -> None:
    for name in ("max", "mse:3", "percentile:40", "percentile:x"):
        with pytest.raises(UsageError, match=r"observer|percentile"):
            make(name)
