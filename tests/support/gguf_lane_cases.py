"""Weights and importances of every kind for the lanes, and both ways to quantize them: lanes and ggml."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator

import numpy as np

from modelport.exporters.runtimes.gguf import lanes

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
