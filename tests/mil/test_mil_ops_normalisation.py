"""Normalisation, attention and 8-bit activations against torch and the documented formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_calls import apply
from modelport.mil.program import UnknownOperator
from modelport.targets.errors import SourceUnreadable

pytestmark = pytest.mark.slow

SHAPES = st.lists(st.integers(1, 5), min_size=3, max_size=5)
SEEDS = st.integers(0, 2**16)
EPSILON = st.sampled_from([1e-5, 1e-3, 0.1])


def close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=tolerance, atol=tolerance)


def vector(count: int, low: float = -1, high: float = 1) -> torch.Tensor:
    return torch.empty(count).uniform_(low, high)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, affine=st.booleans(), epsilon=EPSILON, seed=SEEDS)
def test_batch_norm_is_torchs(shape: list[int], affine: bool, epsilon: float, seed: int) -> None:
    torch.manual_seed(seed)
    kind = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)[len(shape) - 3]
    module = kind(shape[1], eps=epsilon, affine=affine).eval()
    module.running_mean, module.running_var = vector(shape[1]), vector(shape[1], 0.1, 2)
    given = {}
    if affine:
        module.weight, module.bias = (torch.nn.Parameter(vector(shape[1]), False) for _ in range(2))
        given = {"gamma": module.weight, "beta": module.bias}
    data = torch.randn(shape)
    found = apply(
        "batch_norm", x=data, mean=module.running_mean, variance=module.running_var, epsilon=epsilon, **given
    )
    close(found, module(data))


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, affine=st.booleans(), epsilon=EPSILON, seed=SEEDS)
def test_instance_norm_is_over_the_spatial_elements(
    shape: list[int], affine: bool, epsilon: float, seed: int
) -> None:
    torch.manual_seed(seed)
    data = torch.randn(shape)
    gamma, beta = (vector(shape[1]) for _ in range(2))
    axes = tuple(range(2, len(shape)))
    expected = (data - data.mean(axes, True)) / torch.sqrt(
        data.var(axes, correction=0, keepdim=True) + epsilon
    )
    if affine:
        view = (-1, *[1] * len(axes))
        expected = expected * gamma.reshape(view) + beta.reshape(view)
    found = apply(
        "instance_norm",
        x=data,
        gamma=gamma if affine else None,
        beta=beta if affine else None,
        epsilon=epsilon,
    )
    close(found, expected)
    if np.prod(shape[2:]) > 1 and not affine:
        close(found, F.instance_norm(data, eps=epsilon))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), shape=SHAPES, affine=st.booleans(), epsilon=EPSILON, seed=SEEDS)
def test_layer_norm_over_any_axes(
    data: st.DataObject, shape: list[int], affine: bool, epsilon: float, seed: int
) -> None:
    rank = len(shape)
    axes = data.draw(st.lists(st.integers(-rank, rank - 1), min_size=1, unique_by=lambda axis: axis % rank))
    torch.manual_seed(seed)
    x = torch.randn(shape)
    chosen = sorted(axis % rank for axis in axes)
    gamma, beta = (torch.randn([shape[axis] for axis in chosen]) for _ in range(2))
    expected = (x - x.mean(chosen, True)) / torch.sqrt(x.var(chosen, correction=0, keepdim=True) + epsilon)
    if affine:
        view = [size if axis in chosen else 1 for axis, size in enumerate(shape)]
        expected = expected * gamma.reshape(view) + beta.reshape(view)
    found = apply(
        "layer_norm",
        x=x,
        axes=axes,
        gamma=gamma if affine else None,
        beta=beta if affine else None,
        epsilon=epsilon,
    )
    close(found, expected)


def test_layer_norm_over_all_axes_by_default_and_not_over_others() -> None:
    data = torch.randn(2, 3, 4)
    close(apply("layer_norm", x=data), F.layer_norm(data, data.shape))
    with pytest.raises(SourceUnreadable, match="axis 3 of a value with 3 dimensions"):
        apply("layer_norm", x=data, axes=[3])


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, epsilon=EPSILON, seed=SEEDS)
def test_l2_norm_divides_by_the_length(shape: list[int], epsilon: float, seed: int) -> None:
    torch.manual_seed(seed)
    data = torch.randn(shape)
    rows = data.reshape(-1, int(np.prod(shape[-3:])))
    expected = rows / torch.sqrt((rows * rows).sum(1, keepdim=True) + epsilon)
    close(apply("l2_norm", x=data, epsilon=epsilon), expected.reshape(shape))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=3, max_size=4), size=st.sampled_from([1, 3, 5]),
    alpha=st.floats(1e-4, 1), beta=st.floats(0.5, 1), k=st.floats(0.5, 2), seed=SEEDS,
)  # fmt: skip
def test_local_response_norm_is_over_neighbouring_channels(
    shape: list[int], size: int, alpha: float, beta: float, k: float, seed: int
) -> None:
    torch.manual_seed(seed)
    data = torch.randn(shape)
    half, expected = size // 2, torch.empty(shape)
    for channel in range(shape[1]):
        window = data[:, max(0, channel - half) : channel + half + 1]
        expected[:, channel] = data[:, channel] / (k + alpha / size * window.square().sum(1)) ** beta
    close(apply("local_response_norm", x=data, size=size, alpha=alpha, beta=beta, k=k), expected)
    with pytest.raises(UnknownOperator, match="even size"):
        apply("local_response_norm", x=data, size=size + 1)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.lists(st.integers(1, 3), min_size=1, max_size=2), sizes=st.tuples(*[st.integers(1, 5)] * 4),
    mask=st.sampled_from(["none", "bool", "float", "row"]), seed=SEEDS,
)  # fmt: skip
def test_attention_is_torchs(batch: list[int], sizes: tuple[int, ...], mask: str, seed: int) -> None:
    length, source, width, values = sizes
    torch.manual_seed(seed)
    query, key = torch.randn(*batch, length, width), torch.randn(*batch, source, width)
    value = torch.randn(*batch, source, values)
    allowed = torch.rand(length, source) > 0.4
    allowed[:, 0] = True
    masks = {"none": None, "bool": allowed, "float": torch.randn(length, source), "row": torch.randn(source)}
    given = masks[mask]
    expected = F.scaled_dot_product_attention(query, key, value, given[None] if mask == "row" else given)
    close(apply("scaled_dot_product_attention", query=query, key=key, value=value, attn_mask=given), expected)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), axis=st.integers(-4, 3),
    form=st.sampled_from(["scalar", "vector"]), zero=st.booleans(),
    dtype=st.sampled_from(["int8", "uint8"]), seed=SEEDS,
)  # fmt: skip
def test_quantize_and_dequantize_are_torchs(
    shape: list[int], axis: int, form: str, zero: bool, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    axis = axis % len(shape)
    low, high = (-128, 127) if dtype == "int8" else (0, 255)
    count = shape[axis] if form == "vector" else 1
    data = torch.tensor(rng.normal(scale=20, size=shape), dtype=torch.float32)
    scale = torch.tensor(rng.uniform(0.05, 0.5, count), dtype=torch.float32)
    points = torch.tensor(rng.integers(low, high + 1, count), dtype=torch.int32) * int(zero)
    expected = torch.fake_quantize_per_channel_affine(
        data, scale.expand(shape[axis]), points.expand(shape[axis]), axis, low, high
    )
    named: dict[str, Any] = {"scale": scale, "axis": axis}
    if form == "scalar":
        named = {"scale": scale.reshape(())}
    if zero:
        stored = points.to(torch.int8 if dtype == "int8" else torch.uint8)
        named["zero_point"] = stored if form == "vector" else stored.reshape(())
    held = apply("quantize", dtype, input=data, output_dtype=dtype, **named)
    assert held.dtype == np.dtype(dtype)
    again = np.asarray(apply("dequantize", input=held, **named))
    # torch multiplies by the reciprocal: a value exactly between two steps may go to the other one.
    step = (
        scale.max().item() if form == "scalar" else scale.reshape(-1, *[1] * (len(shape) - axis - 1)).numpy()
    )
    assert (np.abs(again - expected.numpy()) <= step * 1.001).all()
    assert np.mean(np.abs(again - expected.numpy()) > 1e-4) <= 0.02 + 1.5 / again.size


def test_rounding_is_half_to_even_and_saturates() -> None:
    values = np.float32([0.5, 1.5, 2.5, -0.5, 1e9, -1e9])
    found = apply("quantize", "int8", input=values, scale=np.float32(1), output_dtype="int8")
    assert found.tolist() == [0, 2, 2, 0, 127, -128]
    with pytest.raises(UnknownOperator, match="quantize to float8"):
        apply("quantize", "int8", input=values, scale=np.float32(1), output_dtype="float8")
    with pytest.raises(SourceUnreadable, match="scales"):
        apply("dequantize", input=np.int8([1, 2]), scale=np.float32([1, 2, 3]), axis=0)
