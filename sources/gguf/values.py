"""Keys and values of a GGUF file: kept as the bytes that they are, decoded only where somebody asks.

A value is a type id (uint32) and its payload, all little-endian: a number, a string (uint64 length and
bytes), or an array (type id of its items, uint64 count, items).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)

FORMATS: Mapping[int, str] = {
    UINT8: "B", INT8: "b", UINT16: "H", INT16: "h", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?",
    UINT64: "Q", INT64: "q", FLOAT64: "d",
}  # fmt: skip
"""The types of fixed size, by the letter that `struct` has for each."""
SIZES: Mapping[int, int] = {kind: struct.calcsize(f"<{letter}") for kind, letter in FORMATS.items()}
NAMES: Mapping[int, str] = dict(
    enumerate(
        ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "string", "array",
         "uint64", "int64", "float64")
    )
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One key and its value."""

    key: str
    raw: bytes
    """Type id and payload, exactly as they stand in the file."""

    @property
    def kind(self) -> int:
        """The value's type id."""
        return int.from_bytes(self.raw[:4], "little")

    @property
    def items(self) -> int | None:
        """How many items an array has, without decoding them; None for a single value."""
        return int.from_bytes(self.raw[8:16], "little") if self.kind == ARRAY else None


def value(entry: Entry) -> Any:
    """The decoded value: an int, float, bool, str, or a list of these.

    Bytes of a string that are not UTF-8 become surrogates, which `entry` turns back.
    """
    if entry.kind != ARRAY:
        return _decode(entry.raw, 4, entry.kind, 1)[0]
    return _decode(entry.raw, 16, int.from_bytes(entry.raw[4:8], "little"), entry.items or 0)


def _decode(raw: bytes, position: int, kind: int, count: int) -> list[Any]:
    if kind != STRING:
        return list(struct.unpack_from(f"<{count}{FORMATS[kind]}", raw, position))
    found = []
    for _ in range(count):
        begin = position + 8
        position = begin + int.from_bytes(raw[position:begin], "little")
        found.append(raw[begin:position].decode("utf-8", "surrogateescape"))
    return found


def entry(key: str, kind: int, value: Any) -> Entry:
    """The entry that holds `value` as type `kind`; a list becomes an array of that type.

    Raises struct.error for a number that the type cannot hold.
    """
    if isinstance(value, list | tuple):
        head = struct.pack("<IIQ", ARRAY, kind, len(value))
        return Entry(key, head + b"".join(_encode(kind, item) for item in value))
    return Entry(key, struct.pack("<I", kind) + _encode(kind, value))


def _encode(kind: int, value: Any) -> bytes:
    return text(value) if kind == STRING else struct.pack(f"<{FORMATS[kind]}", value)


def text(value: str) -> bytes:
    """A string as the format writes it: its length in bytes, then the bytes."""
    raw = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw
