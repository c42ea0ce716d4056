"""Convolution and pooling against sums and maxima over windows that are written out, and against torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mil_calls import apply
from modelport.mil.program import UnknownOperator
from modelport.targets.errors import SourceUnreadable

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
PAD_TYPES = st.sampled_from(["valid", "same", "same_lower", "custom"])


def pads_of(
    kind: str, sizes: list[int], spans: list[int], strides: list[int], custom: list[int]
) -> list[tuple[int, int]]:
    """(before, after) an axis by the MIL documentation's words; `spans` are the dilated kernel's sizes."""
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        return list(zip(custom[::2], custom[1::2], strict=True))
    found = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + span - size)
        half = (total // 2, total - total // 2)
        found.append(half if kind == "same" else half[::-1])
    return found


@st.composite
def windows(draw: st.DrawFn, dilated: bool) -> dict[str, Any]:
    axes = draw(st.integers(1, 3))
    limit = {1: 9, 2: 7, 3: 5}[axes]
    vector = lambda low, high: draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))  # noqa: E731
    sizes, kernel, strides = vector(1, limit), vector(1, 3), vector(1, 3)
    dilations = vector(1, 2) if dilated else [1] * axes
    kind = draw(PAD_TYPES)
    custom = draw(st.lists(st.integers(0, 3), min_size=2 * axes, max_size=2 * axes))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = pads_of(kind, sizes, spans, strides, custom)
    assume(all(size + sum(pad) >= span for size, pad, span in zip(sizes, pads, spans, strict=True)))
    return {
        "sizes": sizes, "kernel": kernel, "strides": strides, "dilations": dilations, "kind": kind,
        "custom": custom, "spans": spans, "pads": pads, "seed": draw(st.integers(0, 2**32 - 1)),
    }  # fmt: skip


def places(counts: list[int], case: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each output position with the padded input's slice that it sees."""
    for place in itertools.product(*map(range, counts)):
        yield (
            place,
            tuple(
                slice(at * s, at * s + span, d)
                for at, s, span, d in zip(
                    place, case["strides"], case["spans"], case["dilations"], strict=True
                )
            ),
        )


def given_pads(case: dict[str, Any]) -> dict[str, Any]:
    return {"pad_type": case["kind"], "pad": case["custom"] if case["kind"] == "custom" else None}


def counts_of(case: dict[str, Any]) -> list[int]:
    return [
        (n + sum(pad) - span) // s + 1
        for n, pad, span, s in zip(case["sizes"], case["pads"], case["spans"], case["strides"], strict=True)
    ]


@settings(max_examples=80, deadline=None)
@given(case=windows(dilated=True), groups=st.integers(1, 3), wide=st.integers(1, 2), bias=st.booleans())
def test_conv_is_a_weighted_sum_of_each_window(
    case: dict[str, Any], groups: int, wide: int, bias: bool
) -> None:
    rng = np.random.default_rng(case["seed"])
    ins, outs = groups * wide, groups * 2
    x = rng.standard_normal((2, ins, *case["sizes"])).astype(np.float32)
    weight = rng.standard_normal((outs, wide, *case["kernel"])).astype(np.float32)
    offset = rng.standard_normal(outs).astype(np.float32) if bias else None
    padded = np.pad(x, [(0, 0), (0, 0), *case["pads"]])
    counts = counts_of(case)
    expected = np.zeros((2, outs, *counts))
    axes = tuple(range(2, x.ndim))
    for out in range(outs):
        first = out // 2 * wide
        for place, window in places(counts, case):
            seen = padded[(slice(None), slice(first, first + wide), *window)]
            expected[(slice(None), out, *place)] = (seen * weight[out]).sum((1, *axes)) + (
                offset[out] if bias else 0
            )
    found = apply(
        "conv", x=x, weight=weight, bias=offset, strides=case["strides"], dilations=case["dilations"], groups=groups,
        **given_pads(case),
    )  # fmt: skip
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=80, deadline=None)
@given(case=windows(dilated=True), groups=st.integers(1, 2), bias=st.booleans())
def test_conv_transpose_is_the_adjoint_of_conv(case: dict[str, Any], groups: int, bias: bool) -> None:
    """<conv(y), x> == <y, conv_transpose(x)> for every y: what transposed means."""
    assume(case["kind"] in ("valid", "custom"))
    rng = np.random.default_rng(case["seed"])
    sizes = [
        (n - 1) * s + span - sum(pad)
        for n, s, span, pad in zip(case["sizes"], case["strides"], case["spans"], case["pads"], strict=True)
    ]
    assume(min(sizes) > 0)
    x = rng.standard_normal((1, 2 * groups, *case["sizes"])).astype(np.float32)
    weight = rng.standard_normal((2 * groups, 3, *case["kernel"])).astype(np.float32)
    offset = rng.standard_normal(3 * groups).astype(np.float32)
    shared = {
        "weight": weight, "strides": case["strides"], "dilations": case["dilations"], "groups": groups,
        **given_pads(case),
    }  # fmt: skip
    found = apply("conv_transpose", x=x, bias=offset if bias else None, **shared)
    assert found.shape == (1, 3 * groups, *sizes)
    if bias:
        found = found - offset.reshape(-1, *[1] * len(sizes))
    y = rng.standard_normal(found.shape).astype(np.float32)
    np.testing.assert_allclose(
        (apply("conv", x=y, **shared) * x).sum(), (y * found).sum(), rtol=1e-3, atol=1e-3
    )


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 6), kernel=st.integers(1, 4), stride=st.integers(1, 4), extra=st.integers(0, 3))
def test_conv_transpose_with_an_output_size_is_torchs_output_padding(
    size: int, kernel: int, stride: int, extra: int
) -> None:
    assume(extra < stride)
    x, weight, bias = torch.randn(1, 2, size), torch.randn(2, 3, kernel), torch.randn(3)
    expected = torch.nn.functional.conv_transpose1d(x, weight, bias, stride, 0, extra)
    found = apply(
        "conv_transpose", x=x, weight=weight, bias=bias, strides=[stride], pad_type="valid",
        output_shape=list(expected.shape),
    )  # fmt: skip
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 6), kernel=st.integers(1, 5), stride=st.integers(1, 3))
def test_conv_transpose_same_is_the_gradient_of_conv_same(size: int, kernel: int, stride: int) -> None:
    x, weight = torch.randn(1, 2, size), torch.randn(2, 1, kernel)
    found = apply("conv_transpose", x=x, weight=weight, strides=[stride], pad_type="same")
    assert found.shape == (1, 1, size * stride)
    y = np.random.default_rng(0).standard_normal(found.shape).astype(np.float32)
    back = apply("conv", x=y, weight=weight, strides=[stride], pad_type="same")
    np.testing.assert_allclose((back * x.numpy()).sum(), (y * found).sum(), rtol=1e-3, atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(case=windows(dilated=False), exclude=st.booleans())
def test_pools_reduce_each_window(case: dict[str, Any], exclude: bool) -> None:
    x = np.random.default_rng(case["seed"]).standard_normal((1, 2, *case["sizes"])).astype(np.float32)
    counts = counts_of(case)
    border = [(0, 0), (0, 0), *case["pads"]]
    low, zeros, inside = (
        np.pad(x, border, constant_values=-np.inf),
        np.pad(x, border),
        np.pad(np.ones_like(x), border),
    )
    highest, means, norms = (np.zeros((1, 2, *counts)) for _ in range(3))
    axes = tuple(range(2, x.ndim))
    for place, window in places(counts, case):
        at, seen = (slice(None), slice(None), *place), (slice(None), slice(None), *window)
        highest[at] = low[seen].max(axes)
        with np.errstate(invalid="ignore"):
            total = inside[seen].sum(axes) if exclude else np.prod(case["kernel"])
            means[at] = zeros[seen].sum(axes) / total
        norms[at] = np.sqrt(np.square(zeros[seen]).sum(axes))
    shared = {"x": x, "kernel_sizes": case["kernel"], "strides": case["strides"], **given_pads(case)}
    np.testing.assert_allclose(apply("max_pool", **shared), highest, rtol=1e-6)
    found = apply("avg_pool", **shared, exclude_padding_from_average=exclude)
    real = np.isfinite(means)  # a window of padding alone has no mean without it
    np.testing.assert_allclose(found[real], means[real], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apply("l2_pool", **shared), norms, rtol=1e-4, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=2),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    pad=st.integers(0, 2),
    include=st.booleans(),
)
def test_ceil_mode_is_torchs(sizes: list[int], kernel: int, stride: int, pad: int, include: bool) -> None:
    assume(2 * pad <= kernel and min(sizes) + 2 * pad >= kernel)
    # Else torch drops a last window beyond the input, which MIL's documentation keeps where there is no padding.
    assume(pad or kernel >= stride)
    x, axes = torch.randn(1, 2, *sizes), len(sizes)
    F = torch.nn.functional
    shared = {
        "x": x, "kernel_sizes": [kernel] * axes, "strides": [stride] * axes, "pad_type": "custom",
        "pad": [pad] * (2 * axes), "ceil_mode": True,
    }  # fmt: skip
    highest = {1: F.max_pool1d, 2: F.max_pool2d}[axes](x, kernel, stride, pad, ceil_mode=True)
    np.testing.assert_allclose(apply("max_pool", **shared), highest.numpy())
    means = {1: F.avg_pool1d, 2: F.avg_pool2d}[axes](x, kernel, stride, pad, True, include)
    found = apply("avg_pool", **shared, exclude_padding_from_average=not include)
    np.testing.assert_allclose(found, means.numpy(), rtol=1e-5, atol=1e-6)


def test_a_window_that_cannot_be_is_refused_by_field() -> None:
    x, weight = np.zeros((1, 1, 4, 4), np.float32), np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(SourceUnreadable, match="operation tested: pad"):
        apply("conv", x=x, weight=weight, pad_type="custom", pad=[1, 1])
    with pytest.raises(SourceUnreadable, match="at most"):
        apply("conv", x=x, weight=weight, pad_type="custom", pad=[1 << 30] * 4)
    with pytest.raises(SourceUnreadable, match="at most"):
        apply("max_pool", x=x, kernel_sizes=[2, 2], pad_type="custom", pad=[1 << 30] * 4)
    with pytest.raises(SourceUnreadable, match="at most"):
        apply("conv_transpose", x=x, weight=weight, strides=[1 << 30] * 2)
    with pytest.raises(UnknownOperator, match="pad_type=mirrored"):
        apply("conv", x=x, weight=weight, pad_type="mirrored")
