"""The weight file of a package: blob headers checked against the file, values as views of the mapped bytes.

The layout (MILBlob, version 2): a header of 64 bytes (count, version), then blobs, each of them a record of 64 bytes
at a multiple of 64 (sentinel, dtype, bytes, offset of the data, bits of padding) and its data elsewhere in the file.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sources.files.containment import contained
from ..targets.errors import SourceUnreadable, Unsupported

if TYPE_CHECKING:
    import numpy as np

PREFIX = "@model_path/"
"""How a program names its own folder."""

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF

BLOB_DTYPES = {
    1: "fp16", 2: "fp32", 3: "uint8", 4: "int8", 5: "bf16", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1",
    10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32", 16: "fp8e4m3fn", 17: "fp8e5m2",
}  # fmt: skip
"""The weight file's own dtype numbers, which are not those of the program."""

BITS = {
    "bool": 8, "fp16": 16, "fp32": 32, "fp64": 64, "bf16": 16, "fp8e4m3fn": 8, "fp8e5m2": 8,
    "int4": 4, "int8": 8, "int16": 16, "int32": 32, "int64": 64,
    "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6,
    "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64,
}  # fmt: skip
"""Bits of one stored value."""

NUMPY = {
    "bool": "bool", "fp16": "<f2", "fp32": "<f4", "fp64": "<f8", "int8": "i1", "int16": "<i2", "int32": "<i4",
    "int64": "<i8", "uint8": "u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8",
}  # fmt: skip
"""NumPy's dtype of the MIL dtypes whose values are whole numbers of bytes."""


def packed_bytes(count: int, dtype: str) -> int:
    """Bytes that `count` values of `dtype` take, sub-byte ones packed without gaps."""
    return (count * BITS[dtype] + 7) // 8


def decode(data: Any, dtype: str, shape: tuple[int, ...], where: str) -> np.ndarray[Any, Any]:
    """Stored bytes as an array of `shape`: a view for whole-byte dtypes, else a copy (int4 as int8, uint1..6 as uint8).

    Sub-byte values are packed from the least significant bit on and may cross bytes. bf16 gives float32.
    """
    import numpy as np

    count = math.prod(shape)
    if dtype in NUMPY:
        return np.frombuffer(data, NUMPY[dtype], count).reshape(shape)
    if dtype == "bf16":
        return (np.frombuffer(data, "<u2", count).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if BITS[dtype] >= 8:
        raise Unsupported(f"values of {dtype} are not computed", where=where)
    stored = np.frombuffer(data, np.uint8, packed_bytes(count, dtype))
    values = _unpacked(stored, count, BITS[dtype])
    if dtype == "int4":
        values = (((values + 8) & 15).astype(np.int8) - 8).astype(np.int8)
    return values.reshape(shape)


def _unpacked(stored: np.ndarray[Any, Any], count: int, bits: int) -> np.ndarray[Any, Any]:
    import numpy as np

    if bits == 4:
        values = np.empty(stored.size * 2, np.uint8)
        values[::2] = stored & 15
        values[1::2] = stored >> 4
        return values[:count]
    values = np.empty(count, np.uint8)
    step = 1 << 20  # a multiple of 8 values: whole bytes at any width
    for start in range(0, count, step):
        some = min(step, count - start)
        first = start * bits // 8
        piece = np.unpackbits(
            stored[first : first + (some * bits + 7) // 8], bitorder="little", count=some * bits
        )
        values[start : start + some] = np.packbits(piece.reshape(some, bits), axis=1, bitorder="little")[:, 0]
    return values


@dataclass
class Blobs:
    """The weight files that a program in `folder` names, each mapped once, when first asked for."""

    folder: Path
    _mapped: dict[str, mmap.mmap] = field(default_factory=dict)

    def constant(
        self, name: str, offset: int, dtype: str, shape: tuple[int, ...], where: str
    ) -> tuple[int, Callable[[], np.ndarray[Any, Any]]]:
        """The stored bytes of the blob whose record is at `offset` of the file `name`, and what loads its values.

        `where` names the operation. Raises SourceUnreadable when the file is not inside the package, the record is
        none, or its dtype or size is not the declared one.
        """
        data = self._open(name, where)
        place = f"{where}: {name.removeprefix(PREFIX)} at {offset}"
        stored, size, start = _record(data, offset, place)
        if stored != dtype:
            raise SourceUnreadable(f"the blob holds {stored}, the program declares {dtype}", where=place)
        expected = packed_bytes(math.prod(shape), dtype)
        if size != expected:
            fact = f"the blob holds {size} bytes, {expected} are needed for {dtype} {list(shape)}"
            raise SourceUnreadable(fact, where=place)
        return size, lambda: decode(memoryview(data)[start : start + size], dtype, shape, place)

    def _open(self, name: str, where: str) -> mmap.mmap:
        if name not in self._mapped:
            if not name.startswith(PREFIX):
                raise SourceUnreadable(f"the weight file {name!r} is not in the package", where=where)
            path = contained(self.folder, name.removeprefix(PREFIX), where=where)
            with path.open("rb") as stream:
                if path.stat().st_size < ALIGNMENT:
                    raise SourceUnreadable("the weight file is cut off", where=path.name)
                # Private pages: a tensor over them may be written to, and the file stays as it is.
                self._mapped[name] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._mapped[name]


def _record(data: mmap.mmap, offset: int, where: str) -> tuple[str, int, int]:
    """(dtype, bytes, start of the data) from the blob's record, all within the file."""
    if offset % ALIGNMENT or not ALIGNMENT <= offset <= len(data) - ALIGNMENT:
        raise SourceUnreadable(f"no blob can be at this offset of a file of {len(data)} bytes", where=where)
    sentinel, number, size, start = struct.unpack_from("<IIQQ", data, offset)
    if sentinel != SENTINEL:
        raise SourceUnreadable("there is no blob at this offset", where=where)
    if number not in BLOB_DTYPES:
        raise SourceUnreadable(f"the blob's dtype number {number} is not known", where=where)
    if start % ALIGNMENT or start > len(data) or size > len(data) - start:
        fact = f"the blob's {size} bytes at {start} are not in the file of {len(data)} bytes"
        raise SourceUnreadable(fact, where=where)
    return BLOB_DTYPES[number], size, start
