"""Protobuf messages written byte by byte: what the readers' tests build good, damaged and hostile files from."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A base-128 varint; a negative number is its 64-bit two's complement, as int64 fields store it."""
    value &= (1 << 64) - 1
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(key: int, value: int) -> bytes:
    """A field of wire type 0."""
    return varint(key << 3) + varint(value)


def field(key: int, payload: bytes | str) -> bytes:
    """A field of wire type 2: bytes, a text, or an encoded message."""
    payload = payload.encode() if isinstance(payload, str) else payload
    return varint(key << 3 | 2) + varint(len(payload)) + payload
