"""What the lanes count, leave to ggml and refuse, and how a level of them is chosen."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gguf_lane_cases import CASES, NAMES, ROWS, WIDTH, importances, reference, run, size_of, weights
from modelport.exporters.runtimes.gguf import lanes
from modelport.targets.errors import Unsupported


@pytest.mark.parametrize("rows", [1, 3, 15, 17, 33])
def test_nothing_is_written_beside_the_target(levels: dict[str, lanes.Quantizer], rows: int) -> None:
    values = np.random.default_rng(7).standard_normal((rows, 256)).astype(np.float32)
    importance = np.ones(256, np.float32)
    for name, weighed in CASES:
        size = size_of(name, values.size)
        out = np.full(size + 512, 0xA5, np.uint8)
        for quantizer in levels.values():
            address = importance.ctypes.data if weighed else None
            at = out.ctypes.data + 256
            quantizer.quantize(NAMES[name], "float32", values.ctypes.data, at, rows, 256, address)
            assert np.all(out[:256] == 0xA5), (quantizer.name, name)
            assert np.all(out[256 + size :] == 0xA5), (quantizer.name, name)


@pytest.mark.parametrize("name", ["q4_K", "q6_K", "q8_0", "q4_0", "f16", "f32"])
def test_values_that_are_not_finite_are_counted(
    levels: dict[str, lanes.Quantizer], off: lanes.Quantizer, name: str
) -> None:
    values = np.ones((40, 512), np.float32)
    values[7, 300], values[7, 301], values[30, 2] = np.nan, -np.inf, 1e6
    halves = name == "f16"
    for quantizer in (*levels.values(), off):
        assert run(quantizer, name, values)[1] == lanes.Report(2, int(halves), 7 * 512 + 300), quantizer.name
        assert run(quantizer, name, values, via="f16")[1] == lanes.Report(2, 1, 7 * 512 + 300)
        assert run(quantizer, name, values[8:], via="f16")[1] == lanes.Report(0, 1, 22 * 512 + 2)


@pytest.mark.parametrize("value", [65519.996, 65520.0, -65520.0])
def test_overflow_begins_where_float16_rounds_to_infinity(
    levels: dict[str, lanes.Quantizer], off: lanes.Quantizer, value: float
) -> None:
    values = np.full((1, 32), 1.0, np.float32)
    values[0, 9] = value
    with np.errstate(over="ignore"):
        infinite = int(np.isinf(np.float32(value).astype(np.float16)))
    for quantizer in (*levels.values(), off):
        report = run(quantizer, "f16", values)[1]
        assert report == lanes.Report(0, infinite, 9 if infinite else -1), quantizer.name


def counting(ggml: ctypes.CDLL, quantizer: lanes.Quantizer) -> list[int]:
    """Count, in the list that is returned, the blocks that this quantizer leaves to ggml."""
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_size_t, ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p
    )
    left: list[int] = []

    def chunk(*arguments: Any) -> int:
        left.append(arguments[4] * arguments[5])
        return int(ggml.ggml_quantize_chunk(*arguments))

    function = prototype(chunk)
    quantizer._chunk = ctypes.cast(function, ctypes.c_void_p)
    quantizer._kept = function  # type: ignore[attr-defined]
    return left


@pytest.mark.parametrize("weighed", [False, True])
def test_ordinary_weights_are_not_left_to_ggml(ggml: ctypes.CDLL, weighed: bool) -> None:
    kinds = weights(8)
    importance = next(importances(9)) if weighed else None
    for level in ("avx512", "avx2", "plain"):
        quantizer = lanes.load(ggml, level)
        left = counting(ggml, quantizer)
        for kind in (
            "normal",
            "uniform",
            "one outlier",
            "constant",
            "some zeros",
            "bfloat16",
            "all positive",
        ):
            for name in NAMES:
                run(quantizer, name, kinds[kind], importance)
                assert not left, (level, kind, name)


def test_extreme_weights_are_left_to_ggml(ggml: ctypes.CDLL, levels: dict[str, lanes.Quantizer]) -> None:
    for level in levels:
        quantizer = lanes.load(ggml, "plain" if level == "neon" else level)
        left = counting(ggml, quantizer)
        run(quantizer, "q4_K", weights(8)["extreme"])
        assert sum(left) == ROWS * WIDTH


def test_a_level_can_be_forced_and_turned_off(ggml: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lanes.VARIABLE, "off")
    assert lanes.load(ggml).name == "ggml"
    assert not lanes.load(ggml).supports(NAMES["q4_K"], False)
    monkeypatch.setenv(lanes.VARIABLE, "plain")
    assert lanes.load(ggml).name in ("plain", "neon", "ggml")
    monkeypatch.setenv(lanes.VARIABLE, "avx1024")
    with pytest.raises(Unsupported, match="avx1024"):
        lanes.load(ggml)


def test_without_the_extension_the_bytes_are_ggmls(
    ggml: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_native", lambda: None)
    quantizer = lanes.load(ggml)
    assert quantizer.name == "ggml"
    values = np.concatenate([kind[:3] for kind in weights(10).values()])
    importance = next(importances(11))
    for name, weighed in CASES:
        given_weights = importance if weighed else None
        found, report = run(quantizer, name, values, given_weights)
        assert np.array_equal(found, reference(ggml, name, values, given_weights)), name
        assert report.nonfinite == 0


class OtherGgml:
    """A libggml that rounds q4_K otherwise, as one built with contraction may."""

    def __init__(self, ggml: ctypes.CDLL) -> None:
        prototype = ctypes.CFUNCTYPE(
            ctypes.c_size_t, ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p
        )

        def chunk(kind: int, source: int, target: int, *rest: Any) -> int:
            size = int(ggml.ggml_quantize_chunk(kind, source, target, *rest))
            if kind == NAMES["q4_K"]:
                ctypes.c_uint8.from_address(target + size - 1).value ^= 0x10
            return size

        self.ggml_quantize_chunk = prototype(chunk)


def test_a_type_that_this_ggml_rounds_otherwise_goes_through_ggml(
    ggml: ctypes.CDLL, levels: dict[str, lanes.Quantizer]
) -> None:
    other: Any = OtherGgml(ggml)
    quantizer = lanes.load(other)
    assert not quantizer.supports(NAMES["q4_K"], False)
    assert quantizer.supports(NAMES["q6_K"], False) == next(iter(levels.values())).supports(14, False)
    values = weights(12)["normal"][:16]
    assert np.array_equal(run(quantizer, "q4_K", values)[0], reference(other, "q4_K", values))


def test_rows_that_do_not_fill_blocks_are_refused(levels: dict[str, lanes.Quantizer]) -> None:
    for quantizer in levels.values():
        with pytest.raises(Unsupported, match="rows of 288 values"):
            run(quantizer, "q4_K", np.ones((1, 288), np.float32))
        with pytest.raises(Unsupported, match="type 99"):
            quantizer.quantize(99, "float32", 0, 0, 1, 256, None)


def test_threads_share_one_quantizer(ggml: ctypes.CDLL, levels: dict[str, lanes.Quantizer]) -> None:
    values = weights(13)["normal"]
    expected = reference(ggml, "q4_K", values)
    for quantizer in levels.values():
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _, q=quantizer: run(q, "q4_K", values)[0], range(16)))
        assert all(np.array_equal(result, expected) for result in results)
