"""Elementwise operators and activations against NumPy over random shapes, broadcast and not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mil_calls import apply

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=5)
SEEDS = st.integers(0, 2**32 - 1)
erf = np.vectorize(math.erf, otypes=[np.float64])


def random(seed: int, shape: tuple[int, ...], low: float = -4, high: float = 4) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def close(found: Array, expected: Array, tolerance: float = 2e-5) -> None:
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


UNARY: dict[str, tuple[Callable[[Array], Array], float, float]] = {
    "abs": (np.abs, -4, 4),
    "acos": (np.arccos, -0.99, 0.99),
    "asin": (np.arcsin, -0.99, 0.99),
    "atan": (np.arctan, -4, 4),
    "atanh": (np.arctanh, -0.9, 0.9),
    "ceil": (np.ceil, -4, 4),
    "cos": (np.cos, -4, 4),
    "cosh": (np.cosh, -3, 3),
    "erf": (erf, -3, 3),
    "exp": (np.exp, -3, 3),
    "exp2": (np.exp2, -3, 3),
    "floor": (np.floor, -4, 4),
    "identity": (lambda x: x, -4, 4),
    "relu": (lambda x: np.maximum(x, 0), -4, 4),
    "relu6": (lambda x: np.clip(x, 0, 6), -4, 10),
    "round": (np.round, -4, 4),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -8, 8),
    "sign": (np.sign, -4, 4),
    "silu": (lambda x: x / (1 + np.exp(-x)), -8, 8),
    "sin": (np.sin, -4, 4),
    "sinh": (np.sinh, -3, 3),
    "softplus": (lambda x: np.log1p(np.exp(x)), -30, 30),
    "softsign": (lambda x: x / (1 + np.abs(x)), -4, 4),
    "sqrt": (np.sqrt, 0, 4),
    "square": (np.square, -4, 4),
    "tan": (np.tan, -1.2, 1.2),
    "tanh": (np.tanh, -4, 4),
}


@pytest.mark.parametrize("kind", UNARY)
@settings(max_examples=15, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_unary(kind: str, shape: tuple[int, ...], seed: int) -> None:
    function, low, high = UNARY[kind]
    x = random(seed, shape, low, high)
    close(apply(kind, x=x), function(x.astype(np.float64)))


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "floor_div": np.floor_divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "pow": np.power,
    "real_div": np.true_divide,
    "sub": np.subtract,
}
COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "equal": np.equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "not_equal": np.not_equal,
}


@pytest.mark.parametrize("kind", [*BINARY, *COMPARISONS])
@settings(max_examples=15, deadline=None)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4), seed=SEEDS)
def test_binary_operators_broadcast(kind: str, shapes: Any, seed: int) -> None:
    left, right = (random(seed + n, shape, 0.5, 4) for n, shape in enumerate(shapes.input_shapes))
    if kind in COMPARISONS:
        left, right = left.round(), right.round()
        assert np.array_equal(apply(kind, "bool", x=left, y=right), COMPARISONS[kind](left, right))
    else:
        close(apply(kind, x=left, y=right), BINARY[kind](left, right))


@pytest.mark.parametrize("kind", ["add", "sub", "mul", "floor_div", "mod", "maximum", "minimum"])
@settings(max_examples=30, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(-9, 9), st.sampled_from([-4, -3, -2, 2, 3, 4])), min_size=1))
def test_integers_divide_towards_minus_infinity(kind: str, pairs: list[tuple[int, int]]) -> None:
    left, right = np.array(pairs, np.int32).T
    found = apply(kind, "int32", x=left, y=right)
    assert found.dtype == np.int32
    assert np.array_equal(found, BINARY[kind](left, right))


@pytest.mark.parametrize(
    ("kind", "function"),
    [("logical_and", np.logical_and), ("logical_or", np.logical_or), ("logical_xor", np.logical_xor)],
)
def test_logical(kind: str, function: Callable[[Array, Array], Array]) -> None:
    left, right = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert np.array_equal(apply(kind, "bool", x=left, y=right), function(left, right))
    assert np.array_equal(apply("logical_not", "bool", x=left), ~left)


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=SEEDS, epsilon=st.sampled_from([None, 1e-3, 0.5]))
def test_epsilon_is_added_before(shape: tuple[int, ...], seed: int, epsilon: float | None) -> None:
    x = random(seed, shape, 0.1, 4)
    wide = x.astype(np.float64)
    close(apply("log", x=x, epsilon=epsilon), np.log(wide + (epsilon or 0)))
    close(apply("inverse", x=x, epsilon=epsilon), 1 / (wide + (1e-4 if epsilon is None else epsilon)))
    close(apply("rsqrt", x=x, epsilon=epsilon), 1 / np.sqrt(wide + (epsilon or 1e-12)))


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, seed=SEEDS, low=st.floats(-3, 0), high=st.floats(0.5, 3))
def test_bounds(shape: tuple[int, ...], seed: int, low: float, high: float) -> None:
    x = random(seed, shape)
    close(apply("clip", x=x, alpha=low, beta=high), np.clip(x, low, high))
    close(apply("threshold", x=x, alpha=low), np.maximum(x, low))


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("int32", [1.9, -1.9, 0.0], [1, -1, 0]),
        ("bool", [0.5, 0.0, -2.0], [True, False, True]),
        ("fp16", [1.0, 2.5, -3.0], [1.0, 2.5, -3.0]),
        ("uint16", [0.0, 65535.0, 7.5], [0, 65535, 7]),
    ],
)
def test_cast(dtype: str, values: list[float], expected: list[Any]) -> None:
    assert apply("cast", dtype, x=np.float32(values), dtype=dtype).tolist() == expected


ACTIVATIONS: dict[str, Callable[[Array, float, float], Array]] = {
    "clamped_relu": lambda x, a, b: np.minimum(np.where(x >= 0, x, a * x), b),
    "elu": lambda x, a, b: np.where(x > 0, x, a * (np.exp(x) - 1)),
    "leaky_relu": lambda x, a, b: np.where(x >= 0, x, a * x),
    "linear_activation": lambda x, a, b: a * x + b,
    "scaled_tanh": lambda x, a, b: a * np.tanh(b * x),
    "sigmoid_hard": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "thresholded_relu": lambda x, a, b: np.where(x >= a, x, 0),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
@settings(max_examples=20, deadline=None)
@given(shape=SHAPES, seed=SEEDS, alpha=st.floats(0.125, 2, width=16), beta=st.floats(0.125, 2, width=16))
def test_activations_with_constants(
    kind: str, shape: tuple[int, ...], seed: int, alpha: float, beta: float
) -> None:
    x = random(seed, shape)
    expected = ACTIVATIONS[kind](x.astype(np.float64), alpha, beta)
    two = kind in ("clamped_relu", "linear_activation", "scaled_tanh", "sigmoid_hard")
    close(apply(kind, x=x, alpha=alpha, beta=beta if two else None), expected)


@settings(max_examples=20, deadline=None)
@given(shape=hnp.array_shapes(min_dims=3, max_dims=5, max_side=4), seed=SEEDS)
def test_activations_with_a_constant_a_channel(shape: tuple[int, ...], seed: int) -> None:
    x, alpha = random(seed, shape), random(seed + 1, (shape[1],))
    beta = random(seed + 2, (shape[1],), 0.5, 2)
    a, b = (v.reshape(-1, *[1] * (len(shape) - 2)).astype(np.float64) for v in (alpha, beta))
    close(apply("prelu", x=x, alpha=alpha), np.where(x > 0, x, a * x))
    close(apply("softplus_parametric", x=x, alpha=alpha, beta=beta), a * np.log1p(np.exp(b * x)))


@settings(max_examples=20, deadline=None)
@given(shape=SHAPES, seed=SEEDS)
def test_gelu_by_its_three_formulas(shape: tuple[int, ...], seed: int) -> None:
    x = random(seed, shape).astype(np.float64)
    given_x = x.astype(np.float32)
    close(apply("gelu", x=given_x), 0.5 * x * (1 + erf(x / np.sqrt(2))))
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    close(apply("gelu", x=given_x, mode="TANH_APPROXIMATION"), 0.5 * x * (1 + np.tanh(inner)))
    close(apply("gelu", x=given_x, mode="SIGMOID_APPROXIMATION"), x / (1 + np.exp(-1.702 * x)))


@settings(max_examples=20, deadline=None)
@given(shape=hnp.array_shapes(min_dims=1, max_dims=4, max_side=5), seed=SEEDS, data=st.data())
def test_softmax_sums_to_one_along_its_axis(shape: tuple[int, ...], seed: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = random(seed, shape, -50, 50).astype(np.float64)
    powers = np.exp(x - x.max(axis, keepdims=True))
    close(apply("softmax", x=x.astype(np.float32), axis=axis), powers / powers.sum(axis, keepdims=True), 1e-4)


def test_an_operator_never_writes_into_its_input() -> None:
    x = torch.full((2, 3), 0.5)
    for kind in UNARY:
        apply(kind, x=x)
        assert torch.equal(x, torch.full((2, 3), 0.5)), kind
