"""The lanes write ggml's bytes: on ordinary, extreme and adversarial weights, at every level this processor has."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gguf_lane_cases import CASES, NAMES, X86, importances, reference, run, weights
from modelport.exporters.runtimes.gguf import lanes


@pytest.mark.skipif(not X86, reason="elsewhere ggml may round otherwise")
@pytest.mark.parametrize("level", ["avx512", "avx2", "plain"])
def test_the_gate_lets_every_type_in(
    ggml: ctypes.CDLL, levels: dict[str, lanes.Quantizer], level: str
) -> None:
    quantizer = lanes.load(ggml, level)
    assert all(quantizer.supports(NAMES[name], weighed) for name, weighed in CASES), quantizer.name


@pytest.mark.parametrize(("name", "weighed"), CASES)
def test_the_bytes_are_ggmls(
    ggml: ctypes.CDLL, levels: dict[str, lanes.Quantizer], name: str, weighed: bool
) -> None:
    of_columns = list(importances(1))
    for at, (kind, values) in enumerate(weights(0).items()):
        importance = of_columns[at % len(of_columns)] if weighed else None
        expected = reference(ggml, name, values, importance)
        for level, quantizer in levels.items():
            found, _ = run(quantizer, name, values, importance)
            block = lanes.BLOCKS[NAMES[name]][1]
            wrong = np.unique(np.flatnonzero(found != expected) // block)
            assert not wrong.size, f"{level} {name}: {wrong.size} blocks of {kind!r}, first {wrong[0]}"


@pytest.mark.parametrize("name", ["q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_every_importance_gives_ggmls_bytes(
    ggml: ctypes.CDLL, levels: dict[str, lanes.Quantizer], name: str
) -> None:
    values = np.concatenate([kind[:4] for kind in weights(2).values()])
    for importance in importances(3):
        expected = reference(ggml, name, values, importance)
        for level, quantizer in levels.items():
            assert np.array_equal(run(quantizer, name, values, importance)[0], expected), level


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None)
@given(
    pool=arrays(np.float32, st.integers(1, 40), elements=FLOATS),
    column=arrays(np.float32, 8, elements=st.floats(0, 2.0**20, width=32)),
    seed=st.integers(0, 2**32 - 1),
)
@example(pool=np.array([3e38, -3e38], np.float32), column=np.ones(8, np.float32), seed=0)
@example(pool=np.array([1e-45, -0.0], np.float32), column=np.ones(8, np.float32), seed=1)
@example(pool=np.array([-1.0, 0.0, 1.0], np.float32), column=np.zeros(8, np.float32), seed=2)
def test_any_finite_values_give_ggmls_bytes(
    ggml: ctypes.CDLL, levels: dict[str, lanes.Quantizer], pool: np.ndarray, column: np.ndarray, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice(pool, (3, 256))
    importance = rng.choice(column, 256)
    for name, weighed in CASES:
        given_weights = importance if weighed else None
        expected = reference(ggml, name, values, given_weights)
        for level, quantizer in levels.items():
            found, _ = run(quantizer, name, values, given_weights)
            assert np.array_equal(found, expected), (level, name, weighed)


def widened(values: np.ndarray, via: str | None) -> np.ndarray:
    """The float32 that reach the quantizer, by numpy."""
    wide = (
        (values.astype(np.uint32) << 16).view(np.float32)
        if values.dtype == np.uint16
        else values.astype(np.float32)
    )
    if via == "f16":
        return wide.astype(np.float16).astype(np.float32)
    if via == "bf16":
        bits = wide.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    return wide


@pytest.mark.parametrize("via", [None, "f16", "bf16"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_sources_are_converted_on_the_way(
    ggml: ctypes.CDLL, levels: dict[str, lanes.Quantizer], off: lanes.Quantizer, dtype: str, via: str | None
) -> None:
    rng = np.random.default_rng(5)
    spread = 10.0 ** rng.uniform(-8, 4, (37, 1))
    drawn = (rng.standard_normal((37, 256)) * spread).astype(np.float32)
    values = (drawn.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else drawn.astype(dtype)
    importance = rng.random(256).astype(np.float32)
    for name, weighed in CASES:
        given_weights = importance if weighed else None
        expected = reference(ggml, name, widened(values, via), given_weights)
        for quantizer in (*levels.values(), off):
            found, report = run(quantizer, name, values, given_weights, via)
            assert np.array_equal(found, expected), (quantizer.name, name, weighed)
            assert report == lanes.Report(0, 0, -1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 31), (3, 17), (5, 1), (1, 4097)])
def test_float_rows_may_have_any_width(
    ggml: ctypes.CDLL, levels: dict[str, lanes.Quantizer], shape: tuple[int, int]
) -> None:
    values = np.random.default_rng(6).standard_normal(shape).astype(np.float16)
    for name in ("f32", "f16", "bf16"):
        expected = reference(ggml, name, values.astype(np.float32))
        for level, quantizer in levels.items():
            assert np.array_equal(run(quantizer, name, values)[0], expected), (level, name)
