"""Operators that move values, reductions and products, against NumPy over random shapes and attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mil_calls import apply, apply_all
from modelport.mil.program import UnknownOperator
from modelport.targets.errors import SourceUnreadable

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=5, max_side=5)
few = settings(max_examples=40, deadline=None)


def counted(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """Values that tell every element from every other."""
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


@few
@given(shape=SHAPES, data=st.data())
def test_reshape_keeps_sizes_by_zero_and_finds_one(shape: tuple[int, ...], data: st.DataObject) -> None:
    x = counted(shape)
    target = data.draw(st.permutations(shape))
    assert np.array_equal(apply("reshape", x=x, shape=target), x.reshape(target))
    free = data.draw(st.integers(0, len(shape) - 1))
    wild = [-1 if axis == free else 0 for axis in range(len(shape))]
    assert np.array_equal(apply("reshape", x=x, shape=wild), x)
    assert np.array_equal(apply("reshape", x=x, shape=[-1]), x.ravel())


@few
@given(shape=SHAPES, data=st.data())
def test_axes_come_go_and_change_places(shape: tuple[int, ...], data: st.DataObject) -> None:
    x = counted(shape, "int32")
    perm = data.draw(st.permutations(range(len(shape))))
    assert np.array_equal(apply("transpose", "int32", x=x, perm=perm), x.transpose(perm))
    rank = len(shape) + 2
    axes = data.draw(
        st.lists(st.integers(-rank, rank - 1), min_size=2, max_size=2, unique_by=lambda a: a % rank)
    )
    wide = np.expand_dims(x, tuple(axes))
    assert np.array_equal(apply("expand_dims", "int32", x=x, axes=axes), wide)
    assert np.array_equal(apply("squeeze", "int32", x=wide, axes=axes), x)
    assert np.array_equal(apply("squeeze", "int32", x=wide), wide.squeeze())
    cut = data.draw(st.integers(0, len(shape)))
    assert apply("flatten2d", "int32", x=x, axis=cut).shape == (
        np.prod(shape[:cut], dtype=int),
        np.prod(shape[cut:]),
    )
    assert apply("shape", "int32", x=x).tolist() == list(shape)


def test_squeeze_leaves_larger_axes_as_torch_does() -> None:
    assert apply("squeeze", x=np.zeros((2, 1, 3), np.float32), axes=[0, 1]).shape == (2, 3)


def test_reshape_counts_the_axes_that_it_keeps_from_the_last_one() -> None:
    x = counted((2, 50))
    assert apply("reshape", x=x, shape=[1, 0, -1, 0]).shape == (1, 1, 2, 50)
    assert apply("reshape", x=counted((6, 4, 5)), shape=[-1, 0]).shape == (24, 5)


def test_reshape_like_takes_sizes_from_its_references() -> None:
    found = apply(
        "reshape_like", x=counted((6, 30)), ref_tensors=(np.zeros((2, 3, 4)), np.zeros((1, 5, 6))), begins=(0, 1),
        ends=(2, 0), end_masks=(False, True),
    )  # fmt: skip
    assert found.shape == (2, 3, 5, 6)


@few
@given(shape=SHAPES, data=st.data(), count=st.integers(1, 4))
def test_joining_and_cutting_undo_each_other(shape: tuple[int, ...], data: st.DataObject, count: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    parts = []
    for n, size in enumerate(sizes):
        part = list(shape)
        part[axis] = size
        parts.append(counted(tuple(part)) + 100 * n)
    whole = np.concatenate(parts, axis)
    assert np.array_equal(apply("concat", values=tuple(parts), axis=axis), whole)
    cut = apply_all("split", x=whole, axis=axis, split_sizes=sizes)
    assert all(np.array_equal(found.numpy(), part) for found, part in zip(cut, parts, strict=True))
    alike = [counted(shape) + 100 * n for n in range(count)]
    assert np.array_equal(apply("stack", values=tuple(alike), axis=axis), np.stack(alike, axis))
    even = apply_all("split", x=np.concatenate(alike, axis), axis=axis, num_splits=count)
    assert all(np.array_equal(found.numpy(), part) for found, part in zip(even, alike, strict=True))
    turns = apply("concat", values=tuple(alike), axis=axis, interleave=True)
    for n, one in enumerate(alike):
        assert np.array_equal(np.take(turns, range(n, turns.shape[axis], count), axis), one)


@settings(max_examples=200, deadline=None)
@given(shape=SHAPES, data=st.data())
def test_slices_are_numpys(shape: tuple[int, ...], data: st.DataObject) -> None:
    x, index = counted(shape), []
    given_now: dict[str, list[Any]] = {
        n: [] for n in ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    }
    for size in shape:
        single = data.draw(st.booleans()) and data.draw(st.booleans())
        begin = data.draw(st.integers(-size, size - 1) if single else st.integers(-size - 2, size + 2))
        end, stride = (
            data.draw(st.integers(-size - 2, size + 2)),
            data.draw(st.sampled_from([1, 1, 2, 3, -1, -2])),
        )
        no_begin, no_end = (data.draw(st.booleans()), data.draw(st.booleans()))
        index.append(
            (0 if no_begin else begin)
            if single
            else slice(None if no_begin else begin, None if no_end else end, stride)
        )
        for name, value in zip(given_now, (begin, end, stride, no_begin, no_end, single), strict=True):
            given_now[name].append(value)
    expected = x[tuple(index)]
    assert np.array_equal(apply("slice_by_index", x=x, **given_now), expected)
    if expected.ndim:
        changed = x.copy()
        changed[tuple(index)] = -1 - expected
        assert np.array_equal(apply("slice_update", x=x, update=-1 - expected, **given_now), changed)


@few
@given(shape=SHAPES, data=st.data())
def test_slice_by_size(shape: tuple[int, ...], data: st.DataObject) -> None:
    x, index, begins, sizes = counted(shape), [], [], []
    for size in shape:
        first = data.draw(st.integers(0, size - 1))
        length = data.draw(st.integers(1, size - first))
        rest = data.draw(st.booleans())
        index.append(slice(first, None if rest else first + length))
        begins.append(first - size if data.draw(st.booleans()) else first)
        sizes.append(-1 if rest else length)
    assert np.array_equal(apply("slice_by_size", x=x, begin=begins, size=sizes), x[tuple(index)])


@settings(max_examples=80, deadline=None)
@given(shape=SHAPES, data=st.data(), mode=st.sampled_from(["constant", "reflect", "replicate"]))
def test_pad_by_every_mode(shape: tuple[int, ...], data: st.DataObject, mode: str) -> None:
    padded = data.draw(st.integers(1, len(shape)))
    limits = [size - 1 if mode == "reflect" else size for size in shape[-padded:]]
    pads = [data.draw(st.integers(0, limit)) for limit in limits for _ in range(2)]
    x = counted(shape)
    pairs = [(0, 0)] * (len(shape) - padded) + list(zip(pads[::2], pads[1::2], strict=True))
    how: dict[str, Any] = {"mode": "edge" if mode == "replicate" else mode} | (
        {"constant_values": 7.0} if mode == "constant" else {}
    )
    value = 7.0 if mode == "constant" else None
    assert np.array_equal(apply("pad", x=x, pad=pads, mode=mode, constant_val=value), np.pad(x, pairs, **how))


@few
@given(shape=SHAPES, data=st.data())
def test_tile_and_fill(shape: tuple[int, ...], data: st.DataObject) -> None:
    reps = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    assert np.array_equal(apply("tile", x=counted(shape), reps=reps), np.tile(counted(shape), reps))
    assert np.array_equal(apply("fill", "int32", shape=list(shape), value=3), np.full(shape, 3, np.int32))
    assert np.array_equal(apply("fill_like", ref_tensor=counted(shape), value=0.5), np.full(shape, 0.5))


REDUCTIONS: dict[str, Callable[..., Array]] = {
    "reduce_l1_norm": lambda x, **k: np.abs(x).sum(**k),
    "reduce_l2_norm": lambda x, **k: np.sqrt(np.square(x).sum(**k)),
    "reduce_log_sum": lambda x, **k: np.log(x.sum(**k)),
    "reduce_log_sum_exp": lambda x, **k: np.log(np.exp(x).sum(**k)),
    "reduce_max": np.max,
    "reduce_mean": np.mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_sum_square": lambda x, **k: np.square(x).sum(**k),
}


@pytest.mark.parametrize("kind", REDUCTIONS)
@settings(max_examples=20, deadline=None)
@given(shape=hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), data=st.data(), keep=st.booleans())
def test_reductions(kind: str, shape: tuple[int, ...], data: st.DataObject, keep: bool) -> None:
    rank = len(shape)
    axes = data.draw(
        st.none() | st.lists(st.integers(-rank, rank - 1), min_size=1, unique_by=lambda a: a % rank)
    )
    x = np.random.default_rng(0).uniform(0.5, 1.5, shape)
    expected = REDUCTIONS[kind](x, axis=None if axes is None else tuple(axes), keepdims=keep)
    found = apply(kind, x=x.astype(np.float32), axes=axes, keep_dims=keep)
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


@few
@given(shape=SHAPES, data=st.data(), keep=st.booleans(), dtype=st.sampled_from(["int32", "uint16"]))
def test_places_of_the_largest_and_smallest(
    shape: tuple[int, ...], data: st.DataObject, keep: bool, dtype: str
) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = np.random.default_rng(1).permutation(counted(shape).ravel()).reshape(shape)
    shared = {"x": x, "axis": axis, "keep_dims": keep, "output_dtype": dtype}
    assert np.array_equal(apply("reduce_argmax", dtype, **shared), x.argmax(axis, keepdims=keep))
    assert np.array_equal(apply("reduce_argmin", dtype, **shared), x.argmin(axis, keepdims=keep))


def test_integers_are_summed_as_integers() -> None:
    x = np.array([[2**24, 1], [1, 1]], np.int32)
    assert apply("reduce_sum", "int32", x=x).item() == 2**24 + 3
    assert apply("reduce_max", "int32", x=x, axes=[1]).tolist() == [2**24, 1]


@few
@given(
    shapes=hnp.mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=2, max_side=4),
    flips=st.tuples(st.booleans(), st.booleans()),
)
def test_matmul_broadcasts_and_transposes(shapes: Any, flips: tuple[bool, bool]) -> None:
    rng = np.random.default_rng(2)
    left, right = (rng.standard_normal(shape).astype(np.float32) for shape in shapes.input_shapes)
    x = left.swapaxes(-1, -2) if flips[0] else left
    y = right.swapaxes(-1, -2) if flips[1] else right
    found = apply("matmul", x=x, y=y, transpose_x=flips[0], transpose_y=flips[1])
    np.testing.assert_allclose(found, left @ right, rtol=1e-4, atol=1e-5)


@few
@given(shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=4), outs=st.integers(1, 4), bias=st.booleans())
def test_linear(shape: tuple[int, ...], outs: int, bias: bool) -> None:
    rng = np.random.default_rng(3)
    x, weight = (
        rng.standard_normal(shape).astype(np.float32),
        rng.standard_normal((outs, shape[-1])).astype(np.float32),
    )
    offset = rng.standard_normal(outs).astype(np.float32) if bias else None
    expected = x @ weight.T + (0 if offset is None else offset)
    np.testing.assert_allclose(
        apply("linear", x=x, weight=weight, bias=offset), expected, rtol=1e-4, atol=1e-5
    )


@few
@given(sizes=st.lists(st.integers(1, 4), min_size=5, max_size=5), narrow=st.booleans())
def test_einsum_by_the_two_equations_of_mil(sizes: list[int], narrow: bool) -> None:
    n, c, h, w, u = sizes
    rng = np.random.default_rng(4)
    x, y = (
        rng.standard_normal((n, c, h, w)).astype(np.float32),
        rng.standard_normal((n, w, h, u)).astype(np.float32),
    )
    if narrow:
        y = y[:1, :, :1]
    expected = np.einsum("nchw,nwhu->nchu", x, np.broadcast_to(y, (n, w, h, u)))
    found = apply("einsum", values=(x, y), equation="nchw,nwhu->nchu")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assume(not narrow)
    found = apply("einsum", values=(x[0], y[0]), equation="chw,whr->chr")
    np.testing.assert_allclose(found, expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("fill", {"shape": [1 << 20, 1 << 20]}),
        ("fill", {"shape": [-1]}),
        ("tile", {"x": counted((1, 2)), "reps": [1 << 20, 1 << 20]}),
        ("pad", {"x": counted((2,)), "pad": [1 << 30, 1 << 30]}),
        ("pad", {"x": counted((2,)), "pad": [-1, 0]}),
        ("slice_by_index", {"x": counted((2,)), "begin": [0, 0], "end": [1, 1]}),
        ("slice_by_index", {"x": counted((2,)), "begin": [0], "end": [1], "stride": [0]}),
        ("split", {"x": counted((3,)), "axis": 0, "num_splits": 2}),
        ("expand_dims", {"x": counted((3,)), "axes": [5]}),
        ("reshape", {"x": counted((3,))}),
    ],
)
def test_attributes_that_cannot_be_are_refused(kind: str, inputs: dict[str, Any]) -> None:
    with pytest.raises(SourceUnreadable, match="tested"):
        apply(kind, **inputs)


def test_a_mode_that_is_not_known_is_named() -> None:
    with pytest.raises(UnknownOperator, match="pad with mode=mirror"):
        apply("pad", x=counted((2,)), pad=[1, 1], mode="mirror")
    with pytest.raises(UnknownOperator, match="gelu with mode=FAST"):
        apply("gelu", x=counted((2,)), mode="FAST")
