"""What an activation was seen to hold, and what 8 bits make of it."""

from __future__ import annotations

import numpy as np

from modelport.calibration import observers
from modelport.calibration.ranges import SENTINEL, Watch, typical_row, without_sentinels


def watch(feature_map: bool = False) -> Watch:
    return Watch(observers.make("minmax")(), feature_map=feature_map)


def test_a_range_spans_all_that_was_seen() -> None:
    seen = watch()
    for values in ([1.0, 2.0], [-3.0, 0.5]):
        seen.observe(np.array([values], np.float32))
    found = seen.range()
    assert (found.low, found.high, found.span) == (-3.0, 2.0, 5.0)


def test_what_stands_for_infinity_is_not_a_value() -> None:
    seen = watch()
    seen.observe(np.array([[1.0, -3.4e38, 2.0, -np.inf]], np.float32))
    assert seen.range().high == 2.0
    assert seen.range().low == 0.0
    assert without_sentinels(np.array([SENTINEL * 10])).tolist() == [0.0]


def test_one_huge_value_is_seen_in_the_signal_to_noise_of_rows() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    even, spiky = watch(), watch()
    even.observe(rows)
    rows[0, 0] = 1000
    spiky.observe(rows)
    assert even.range().sqnr_db > 35
    assert spiky.range().sqnr_db < 10


def test_a_typical_row_is_the_median_of_those_that_are_not_all_zero() -> None:
    assert typical_row(np.array([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0], [2.0, 2.0]])) == 4.0
    assert typical_row(np.zeros((2, 3))) == 0.0
