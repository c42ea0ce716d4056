"""The lanes write ggml's bytes: on ordinary, extreme and adversarial weights, at every level this processor has."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from modelport.exporters.runtimes.gguf import lanes, library
from modelport.targets.errors import Unsupported

NAMES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q2_K": 10,
    "q3_K": 11,
    "q4_K": 12,
    "q5_K": 13,
    "q6_K": 14,
}
CASES = [(name, weighed) for name in NAMES for weighed in (False, True)]
# An Arm ggml may be built with contraction, and then rounds otherwise: there the gate decides.
X86 = platform.machine() == "x86_64"
WIDTH = 512
ROWS = 160


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    pytest.importorskip("llama_cpp")
    return library.ggml()


@pytest.fixture(scope="module")
def levels(ggml: ctypes.CDLL) -> dict[str, lanes.Quantizer]:
    """One quantizer for every level that this processor has, by the level's name."""
    made = (lanes.load(ggml, level) for level in ("avx512", "avx2", "plain"))
    found = {quantizer.name: quantizer for quantizer in made}
    if set(found) == {"ggml"}:
        pytest.skip("the extension was not built, for want of a compiler")
    for quantizer in found.values() if X86 else ():
        # Without this the gate in `load` would hide a difference: it leaves such a type to ggml.
        quantizer._proved = frozenset((NAMES[name], weighed) for name, weighed in CASES)
    return found


@pytest.fixture(scope="module")
def off(ggml: ctypes.CDLL) -> lanes.Quantizer:
    return lanes.load(ggml, "off")


def size_of(name: str, count: int) -> int:
    block, size = lanes.BLOCKS[NAMES[name]]
    return count // block * size


def run(
    quantizer: lanes.Quantizer,
    name: str,
    values: np.ndarray,
    importance: np.ndarray | None = None,
    via: str | None = None,
) -> tuple[np.ndarray, lanes.Report]:
    """The bytes and the report for rows of float32, float16, or (as uint16) bfloat16."""
    dtype = {"float32": "float32", "float16": "float16", "uint16": "bfloat16"}[values.dtype.name]
    out = np.full(size_of(name, values.size), 0xA5, np.uint8)
    report = quantizer.quantize(
        NAMES[name],
        dtype,
        values.ctypes.data,
        out.ctypes.data,
        values.shape[0],
        values.shape[1],
        None if importance is None else importance.ctypes.data,
        via=via,
    )
    return out, report


def reference(
    ggml: ctypes.CDLL, name: str, values: np.ndarray, importance: np.ndarray | None = None
) -> np.ndarray:
    out = np.full(size_of(name, values.size), 0xA5, np.uint8)
    address = None if importance is None else importance.ctypes.data
    ggml.ggml_quantize_chunk(NAMES[name], values.ctypes.data, out.ctypes.data, 0, *values.shape, address)
    return out


def below_a_half(rng: np.random.Generator) -> np.ndarray:
    """Halves of a level and what lies just below and above them, for the scale of 1 that 127 gives q8_0."""
    halves = rng.integers(-126, 126, (ROWS, WIDTH)).astype(np.float32) + np.float32(0.5)
    halves[rng.random(halves.shape) < 0.2] = 0.5
    toward = rng.choice([-np.inf, 0.0, np.inf], halves.shape).astype(np.float32)
    moved = np.where(toward == 0, halves, np.nextafter(halves, toward))
    moved[:, ::32] = 127.0
    return moved


def weights(seed: int) -> dict[str, np.ndarray]:
    """Rows of many kinds, each (ROWS, WIDTH) of float32, finite."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, WIDTH)
    normal = rng.standard_normal(shape)
    sign = rng.choice([-1.0, 1.0], shape)
    column = rng.standard_normal((ROWS, 1))
    blocks = np.repeat(rng.standard_normal((ROWS, WIDTH // 32)), 32, axis=1)
    outlier = normal * 0.01
    outlier[np.arange(ROWS), rng.integers(0, WIDTH, ROWS)] = 40.0 * sign[:, 0]
    kinds = {
        "normal": normal * 0.02,
        "uniform": rng.uniform(-1, 1, shape),
        "heavy-tailed": np.clip(rng.standard_cauchy(shape), -1e6, 1e6),
        "extreme": normal * 1e30,
        "large": normal * 1e9,
        "tiny": normal * 1e-30,
        "about the smallest scale": normal * 10.0 ** rng.uniform(-18, -3, (ROWS, 1)),
        "denormal": normal * 1e-41,
        "any magnitude": sign * 10.0 ** rng.uniform(-44, 38, shape),
        "magnitude of a block": normal * 10.0 ** np.clip(blocks * 8, -30, 30),
        "constant": np.broadcast_to(column, shape),
        "constant sub-blocks": blocks,
        "zeros of both signs": sign * 0.0,
        "some zeros": normal * (rng.random(shape) < 0.1),
        "one outlier": outlier,
        "alternating": column * np.where(np.arange(WIDTH) % 2, 1.0, -1.0),
        "two magnitudes": sign * rng.choice([0.25, 1.0], shape),
        "ties": rng.integers(-16, 17, shape) / 2.0,
        "just below a half": below_a_half(rng),
        "few levels": rng.integers(0, 4, shape) * 1.0,
        "sixteen levels": rng.integers(-8, 8, shape) * 0.125 * column,
        "all negative": -np.abs(normal) - 1e-3,
        "all positive": np.abs(normal) + 1.0,
        "far from zero": 100.0 + normal * 1e-3,
        "far below zero": -100.0 + normal * 1e-5,
        "one step apart": -1.0 + rng.integers(0, 3, shape) * 2.0**-24,
        "symmetric": np.concatenate([normal[:, ::2], -normal[:, ::2]], axis=1),
        "bfloat16": normal.astype(np.float32).view(np.uint32) // 65536 * 65536,
    }
    found = {}
    for kind, values in kinds.items():
        exact = values.astype(np.uint32).view(np.float32) if kind == "bfloat16" else values
        found[kind] = np.ascontiguousarray(exact, np.float32)
    return found


def importances(seed: int) -> Iterator[np.ndarray]:
    """One float32 a column: ordinary, with zeros, of many magnitudes, all zero, and beyond what lanes take."""
    rng = np.random.default_rng(seed)
    ordinary = rng.random(WIDTH)
    kinds = [ordinary, ordinary * (rng.random(WIDTH) < 0.7), 10.0 ** rng.uniform(-30, 6, WIDTH)]
    kinds += [10.0 ** rng.uniform(-44, -36, WIDTH), np.zeros(WIDTH), np.ones(WIDTH), ordinary * 1e20]
    for kind in kinds:
        yield kind.astype(np.float32)


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
