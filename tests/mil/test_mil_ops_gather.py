"""Reading and writing at computed places against loops over the places, by the words of the documentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_calls import apply
from modelport.mil.program import UnknownOperator
from modelport.targets.errors import SourceUnreadable

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**16)
MODES = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new,
    "max": max,
    "min": min,
}
MODE = st.sampled_from(sorted(MODES))


def values(rng: np.random.Generator, shape: Any) -> Array:
    return (rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(shape=SHAPES, places=st.lists(st.integers(1, 3), max_size=3), axis=st.integers(-4, 3), seed=SEEDS)
def test_gather_takes_slices(shape: list[int], places: list[int], axis: int, seed: int) -> None:
    axis = axis % len(shape) - (len(shape) if axis < 0 else 0)
    rng = np.random.default_rng(seed)
    data = values(rng, shape)
    indices = rng.integers(-shape[axis], shape[axis], places).astype(np.int32)
    np.testing.assert_array_equal(
        apply("gather", x=data, indices=indices, axis=axis), np.take(data, indices, axis)
    )


@settings(max_examples=60, deadline=None)
@given(
    batch=st.lists(st.integers(1, 3), min_size=1, max_size=2), middle=st.lists(st.integers(1, 3), max_size=1),
    size=st.integers(1, 4), rest=st.lists(st.integers(1, 3), max_size=2),
    places=st.lists(st.integers(1, 3), max_size=2), seed=SEEDS,
)  # fmt: skip
def test_gather_by_batch(
    batch: list[int], middle: list[int], size: int, rest: list[int], places: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    data = values(rng, (*batch, *middle, size, *rest))
    indices = rng.integers(0, size, (*batch, *places)).astype(np.int32)
    axis = len(batch) + len(middle)
    found = apply("gather", x=data, indices=indices, axis=axis, batch_dims=len(batch))
    expected = np.stack([np.take(data[at], indices[at], len(middle)) for at in np.ndindex(*batch)])
    np.testing.assert_array_equal(found, expected.reshape(*batch, *expected.shape[1:]))


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, axis=st.integers(0, 3), count=st.integers(1, 5), seed=SEEDS)
def test_gather_along_an_axis(shape: list[int], axis: int, count: int, seed: int) -> None:
    axis %= len(shape)
    rng = np.random.default_rng(seed)
    data = values(rng, shape)
    places = [*shape[:axis], count, *shape[axis + 1 :]]
    indices = rng.integers(-shape[axis], shape[axis], places).astype(np.int32)
    found = apply("gather_along_axis", x=data, indices=indices, axis=axis)
    np.testing.assert_array_equal(found, np.take_along_axis(data, indices, axis))


@settings(max_examples=60, deadline=None)
@given(
    batch=st.lists(st.integers(1, 2), max_size=2), shape=SHAPES, places=st.lists(st.integers(1, 3), max_size=2),
    depth=st.integers(1, 4), seed=SEEDS,
)  # fmt: skip
def test_gather_nd(batch: list[int], shape: list[int], places: list[int], depth: int, seed: int) -> None:
    depth = min(depth, len(shape))
    rng = np.random.default_rng(seed)
    data = values(rng, (*batch, *shape))
    coordinates = [rng.integers(0, shape[axis], (*batch, *places)) for axis in range(depth)]
    indices = np.stack(coordinates, axis=-1).astype(np.int32)
    found = apply("gather_nd", x=data, indices=indices, batch_dims=len(batch))
    for place in np.ndindex(*batch, *places):
        np.testing.assert_array_equal(found[place], data[(*place[: len(batch)], *indices[place])])


@settings(max_examples=80, deadline=None)
@given(shape=SHAPES, axis=st.integers(-4, 3), count=st.integers(1, 5), mode=MODE, seed=SEEDS)
def test_scatter(shape: list[int], axis: int, count: int, mode: str, seed: int) -> None:
    axis = axis % len(shape)
    rng = np.random.default_rng(seed)
    data, indices = values(rng, shape), rng.integers(0, shape[axis], count).astype(np.int32)
    updates = values(rng, (*shape[:axis], count, *shape[axis + 1 :]))
    expected = data.copy()
    for place in np.ndindex(*updates.shape):
        target = (*place[:axis], indices[place[axis]], *place[axis + 1 :])
        expected[target] = MODES[mode](expected[target], updates[place])
    found = apply("scatter", data=data, indices=indices, updates=updates, axis=axis, mode=mode)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@settings(max_examples=80, deadline=None)
@given(shape=SHAPES, axis=st.integers(0, 3), count=st.integers(1, 5), mode=MODE, seed=SEEDS)
def test_scatter_along_an_axis(shape: list[int], axis: int, count: int, mode: str, seed: int) -> None:
    axis %= len(shape)
    rng = np.random.default_rng(seed)
    data, places = values(rng, shape), (*shape[:axis], count, *shape[axis + 1 :])
    indices, updates = rng.integers(0, shape[axis], places).astype(np.int32), values(rng, places)
    expected = data.copy()
    for place in np.ndindex(*places):
        target = (*place[:axis], indices[place], *place[axis + 1 :])
        expected[target] = MODES[mode](expected[target], updates[place])
    found = apply("scatter_along_axis", data=data, indices=indices, updates=updates, axis=axis, mode=mode)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@settings(max_examples=80, deadline=None)
@given(
    shape=SHAPES,
    places=st.lists(st.integers(1, 3), max_size=2),
    depth=st.integers(1, 4),
    mode=MODE,
    seed=SEEDS,
)
def test_scatter_nd(shape: list[int], places: list[int], depth: int, mode: str, seed: int) -> None:
    depth = min(depth, len(shape))
    rng = np.random.default_rng(seed)
    data = values(rng, shape)
    indices = np.stack([rng.integers(0, shape[axis], places) for axis in range(depth)], axis=-1).astype(
        np.int32
    )
    updates = values(rng, (*places, *shape[depth:]))
    expected = data.copy()
    for place in np.ndindex(*updates.shape):
        target = (*indices[place[: len(places)]], *place[len(places) :])
        expected[target] = MODES[mode](expected[target], updates[place])
    found = apply("scatter_nd", data=data, indices=indices, updates=updates, mode=mode)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_inputs_are_left_as_they_were() -> None:
    data = torch.zeros(3)
    for mode in MODES:
        apply("scatter", data=data, indices=np.int32([1]), updates=np.float32([2]), mode=mode)
    assert data.tolist() == [0, 0, 0]


def test_the_last_of_several_updates_stays() -> None:
    found = apply(
        "scatter",
        data=np.zeros(2),
        indices=np.zeros(1000, np.int32),
        updates=np.arange(1000.0),
        mode="update",
    )
    assert found.tolist() == [999, 0]


def test_an_index_outside_is_an_error_and_not_a_value() -> None:
    for index in (3, -4):
        with pytest.raises(SourceUnreadable, match=f"the index {index} on an axis of 3"):
            apply("gather", x=np.zeros(3), indices=np.int32([0, index]))
        with pytest.raises(SourceUnreadable, match=f"the index {index} on an axis of 3"):
            apply("gather_nd", x=np.zeros((3, 2)), indices=np.int32([[index, 0]]))
        with pytest.raises(SourceUnreadable, match=f"the index {index} on an axis of 3"):
            apply("scatter", data=np.zeros(3), indices=np.int32([index]), updates=np.zeros(1))
        with pytest.raises(SourceUnreadable, match=f"the index {index} on an axis of 3"):
            apply(
                "scatter",
                data=np.zeros(3),
                indices=np.int32([index]),
                updates=np.zeros(1),
                validate_indices=True,
            )
    with pytest.raises(SourceUnreadable, match="updates"):
        apply("scatter", data=np.zeros(3), indices=np.int32([1]), updates=np.zeros(2))
    with pytest.raises(SourceUnreadable, match="coordinates"):
        apply("gather_nd", x=np.zeros(3), indices=np.int32([[0, 0]]))
    with pytest.raises(UnknownOperator, match="mode=xor"):
        apply("scatter", data=np.zeros(3), indices=np.int32([1]), updates=np.zeros(1), mode="xor")


def test_a_negative_index_is_undefined_from_ios17_on() -> None:
    data, indices = np.float32([1, 2, 3]), np.int32([-1])
    assert apply("gather", x=data, indices=indices).tolist() == [3]
    with pytest.raises(UnknownOperator, match="gather with the negative index -1"):
        apply("gather", x=data, indices=indices, validate_indices=False)
    with pytest.raises(SourceUnreadable, match="the index -1 on an axis of 3"):
        apply("gather", x=data, indices=indices, validate_indices=True)
