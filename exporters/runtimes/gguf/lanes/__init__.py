"""The fast quantizer: ggml's own bytes from SIMD lanes, and ggml's own function wherever they are not the same."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import random
from array import array
from dataclasses import dataclass
from typing import Any, NamedTuple

from .....targets.errors import Unsupported

VARIABLE = "MODELPORT_LANES"
"""Environment variable that forces a lower level: avx512, avx2, plain, or off for ggml's own function."""

BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    30: (1, 2),
}
"""ggml type id: elements of a block and its bytes, for f32, f16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_K to q6_K, bf16."""

_SOURCES = {"float32": 0, "float16": 1, "bfloat16": 2}
_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
_VIAS = {None: 0, "f16": 1, "bf16": 2}
_LEVELS = ("plain", "avx2", "avx512")
_SLAB = 1 << 16
"""Values that the way through ggml holds as float32 at a time (or one row, where that is longer)."""


@dataclass(frozen=True)
class Report:
    """What was seen in the values of one call."""

    nonfinite: int
    """How many source values are NaN or infinite."""
    overflow: int
    """How many finite ones become infinite in float16, where they go through it or into it."""
    first: int
    """Element index of the first of either, or -1."""


class _Rows(NamedTuple):
    """Rows to quantize; what they are is told at `Quantizer.quantize`."""

    ggml_type: int
    source_dtype: str
    source: int
    target: int
    rows: int
    width: int
    importance: int | None
    via: str | None


class _Report(ctypes.Structure):
    _fields_ = (("nonfinite", ctypes.c_int64), ("overflow", ctypes.c_int64), ("first", ctypes.c_int64))


class Quantizer:
    """Quantizes rows of weights to ggml's blocks; one object serves every thread of the process."""

    def __init__(self, ggml: ctypes.CDLL, native: ctypes.CDLL | None, level: int, name: str) -> None:
        self.name = name
        """The kernels in use: "avx512", "avx2", "neon", "plain", or "ggml" where every type goes through ggml."""
        self._ggml = ggml
        self._native = native
        self._level = level
        self._chunk = ctypes.cast(ggml.ggml_quantize_chunk, ctypes.c_void_p)
        self._proved: frozenset[tuple[int, bool]] = frozenset()
        if native is not None:
            self._proved = frozenset(
                (kind, importance)
                for kind in BLOCKS
                for importance in (False, True)
                if _proved(self, kind, importance)
            )
        if not self._proved:
            self.name = "ggml"

    def supports(self, ggml_type: int, importance: bool) -> bool:
        """Whether the lanes write this type, with or without importance, having shown ggml's bytes for it."""
        return (ggml_type, importance) in self._proved

    def quantize(
        self,
        ggml_type: int,
        source_dtype: str,
        source: int,
        target: int,
        rows: int,
        width: int,
        importance: int | None,
        *,
        via: str | None = None,
    ) -> Report:
        """Write `rows` rows of `width` values as blocks of `ggml_type`; releases the GIL.

        `source` and `target` are addresses of contiguous rows; `source_dtype` is "float32", "float16" or
        "bfloat16"; `importance` is the address of `width` float32, or None; `via` "f16" or "bf16" rounds the
        values to that first, as a 16-bit file in between does. The bytes are those of `ggml_quantize_chunk`
        for the same float32 values. Raises Unsupported where the width is no multiple of the type's block.
        """
        if ggml_type not in BLOCKS or width % BLOCKS[ggml_type][0]:
            raise Unsupported(
                f"ggml type {ggml_type} does not take rows of {width} values",
                mend="Choose another type for this tensor",
            )
        call = _Rows(ggml_type, source_dtype, source, target, rows, width, importance, via)
        report = self._lanes(call) if self.supports(ggml_type, importance is not None) else None
        return self._by_ggml(call) if report is None else report

    def _lanes(self, call: _Rows) -> Report | None:
        """The call of the extension, or None where its level has no kernel for the type."""
        assert self._native is not None
        report = _Report()
        code = self._native.modelport_quantize(
            self._level,
            call.ggml_type,
            _SOURCES[call.source_dtype],
            _VIAS[call.via],
            call.source,
            call.target,
            call.rows,
            call.width,
            call.importance,
            self._chunk,
            ctypes.byref(report),
        )
        if code == -2:
            raise MemoryError(f"no memory for a row of {call.width} float32")
        return None if code else Report(report.nonfinite, report.overflow, report.first)

    def _by_ggml(self, call: _Rows) -> Report:
        """ggml's own function over slabs of float32 rows."""
        import numpy as np

        ggml_type, source_dtype, source, target, rows, width, importance, via = call
        block, size = BLOCKS[ggml_type]
        across = width // block * size
        slab = max(1, _SLAB // width)
        values = np.empty(min(slab, rows) * width, np.float32)
        halves = np.empty(values.size if via else 0, np.uint16)
        narrow = via == "f16" or ggml_type == 1
        nonfinite = overflow = 0
        first = -1
        for row in range(0, rows, slab):
            count = min(slab, rows - row) * width
            at = source + row * width * _WIDTHS[source_dtype]
            self._widen(source_dtype, at, values.ctypes.data, count)
            sizes = np.abs(values[:count])
            infinite = ~np.isfinite(sizes)
            large = (sizes >= 65520) & ~infinite if narrow else np.zeros(0, bool)
            nonfinite += int(np.count_nonzero(infinite))
            overflow += int(np.count_nonzero(large))
            if first < 0 and (infinite.any() or large.any()):
                first = row * width + int(np.argmax(infinite | large if narrow else infinite))
            if via == "f16":
                self._convert("ggml_fp32_to_fp16_row", values.ctypes.data, halves.ctypes.data, count)
                self._convert("ggml_fp16_to_fp32_row", halves.ctypes.data, values.ctypes.data, count)
            elif via == "bf16":
                self._convert("ggml_fp32_to_bf16_row_ref", values.ctypes.data, halves.ctypes.data, count)
                self._convert("ggml_bf16_to_fp32_row", halves.ctypes.data, values.ctypes.data, count)
            self._ggml.ggml_quantize_chunk(
                ggml_type, values.ctypes.data, target + row * across, 0, count // width, width, importance
            )
        return Report(nonfinite, overflow, first)

    def _widen(self, dtype: str, source: int, target: int, count: int) -> None:
        """`count` values of `dtype` at `source` as float32 at `target`."""
        if dtype == "float32":
            ctypes.memmove(target, source, count * 4)
        else:
            name = "ggml_fp16_to_fp32_row" if dtype == "float16" else "ggml_bf16_to_fp32_row"
            self._convert(name, source, target, count)

    def _convert(self, name: str, source: int, target: int, count: int) -> None:
        """One of libggml's conversions of `count` values."""
        getattr(self._ggml, name)(ctypes.c_void_p(source), ctypes.c_void_p(target), ctypes.c_int64(count))


def load(ggml: ctypes.CDLL, level: str | None = None) -> Quantizer:
    """The quantizer of this process, for the libggml that `library.ggml()` opened.

    Takes the highest level that the processor has, or the lower one that `level` or the environment variable
    MODELPORT_LANES names ("off": ggml's own function). Every type is first tried against ggml on a few thousand
    values, and left to ggml where a byte differs: an Arm ggml built with contraction, say, rounds otherwise.
    """
    wanted = level or os.environ.get(VARIABLE) or ""
    if wanted not in ("", "off", "neon", *_LEVELS):
        raise Unsupported(
            f"{VARIABLE} is {wanted!r}, not one of avx512, avx2, neon, plain, off", mend=f"Unset {VARIABLE}"
        )
    native = None if wanted == "off" else _native()
    if native is None:
        return Quantizer(ggml, None, 0, "ggml")
    best = int(native.modelport_level())
    asked = _LEVELS.index(wanted) if wanted in _LEVELS else 0 if wanted else best
    chosen = min(best, asked)
    name = _LEVELS[chosen]
    if name == "plain" and os.uname().machine in ("aarch64", "arm64"):
        name = "neon"
    return Quantizer(ggml, native, chosen, name)


def _native() -> ctypes.CDLL | None:
    """The compiled extension, opened as a plain library, or None where the package was built without one."""
    spec = importlib.util.find_spec("._lanes", __package__)
    if spec is None or spec.origin is None:
        return None
    try:
        native = ctypes.CDLL(spec.origin)
    except OSError:
        return None
    native.modelport_level.restype = ctypes.c_int
    native.modelport_quantize.restype = ctypes.c_int64
    pointer, number = ctypes.c_void_p, ctypes.c_int
    native.modelport_quantize.argtypes = [
        *[number] * 4,  # level, type, source, via
        *[pointer] * 2,  # source and target
        *[ctypes.c_int64] * 2,  # rows and width
        *[pointer] * 2,  # importance; ggml_quantize_chunk
        ctypes.POINTER(_Report),
    ]
    return native


@functools.cache
def _sample(width: int, rows: int) -> array[float]:
    """Weights of several magnitudes, with a row of zeros and a constant one among them; the same every time."""
    draw = random.Random(width).random
    values = array("f", [draw() + draw() + draw() - 1.5 for _ in range(width * rows)])
    for row, factor in enumerate((0.02, 1.0, 30.0, 1e-6, 0.0)):
        for column in range(row * width, (row + 1) * width):
            values[column] *= factor
    values[5 * width : 6 * width] = array("f", [-0.75]) * width
    return values


def _proved(quantizer: Quantizer, kind: int, importance: bool) -> bool:
    """Whether the lanes give ggml's bytes for a sample of this type."""
    width, rows = 512, 8
    values = _sample(width, rows)
    weights = array("f", [abs(value) if index % 7 else 0.0 for index, value in enumerate(values[:width])])
    address = weights.buffer_info()[0] if importance else None
    block, size = BLOCKS[kind]
    ours, theirs = (ctypes.create_string_buffer(rows * width // block * size) for _ in range(2))
    source = values.buffer_info()[0]
    report = quantizer._lanes(
        _Rows(kind, "float32", source, ctypes.addressof(ours), rows, width, address, None)
    )
    if report is None:
        return False
    ggml: Any = quantizer._ggml
    ggml.ggml_quantize_chunk(kind, source, ctypes.addressof(theirs), 0, rows, width, address)
    return ours.raw == theirs.raw
