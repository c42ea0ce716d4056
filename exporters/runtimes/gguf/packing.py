"""Values as the gguf package's writer holds them, packed into entries of a header."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ....sources.gguf import header, values

if TYPE_CHECKING:
    from gguf import GGUFWriter

ITEMS = {
    str: values.STRING,
    bytes: values.STRING,
    bytearray: values.STRING,
    float: values.FLOAT32,
    bool: values.BOOL,
    int: values.INT32,
}
"""GGUF's types of what gguf.GGUFWriter is given in lists."""


def entries_of(writer: GGUFWriter) -> tuple[header.Entry, ...]:
    """The keys that a gguf.GGUFWriter holds, as it would write them; its own way takes seconds for a vocabulary."""
    return tuple(
        packed(key, item.value, int(item.type), item.sub_type) for key, item in writer.kv_data[0].items()
    )


def packed(key: str, value: Any, kind: int, items: int | None = None) -> header.Entry:
    """One entry of GGUF's type `kind`; `items` is the type of an array's items where the writer was told."""
    return header.Entry(key, struct.pack("<I", kind) + _payload(kind, value, items))


def _payload(kind: int, value: Any, items: int | None) -> bytes:
    """A value's bytes after its type."""
    if kind == values.STRING:
        return _strings([value])
    if kind != values.ARRAY:
        return struct.pack(f"<{values.FORMATS[kind]}", value)
    if items is None:
        items = values.UINT8 if isinstance(value, bytes) else _item_type(value)
    head = struct.pack("<IQ", items, len(value))
    if items == values.STRING:
        return head + _strings(value)
    return head + struct.pack(f"<{len(value)}{values.FORMATS[items]}", *value)


def _item_type(items: Sequence[Any]) -> int:
    """What gguf takes Python's values for."""
    kinds = {ITEMS.get(kind) for kind in set(map(type, items))}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        raise ValueError(
            f"the items of an array are {', '.join(sorted({type(item).__name__ for item in items}))}"
        )
    return kind


def _strings(items: Iterable[str | bytes]) -> bytes:
    encoded = [item.encode() if isinstance(item, str) else bytes(item) for item in items]
    return b"".join([part for raw in encoded for part in (len(raw).to_bytes(8, "little"), raw)])
