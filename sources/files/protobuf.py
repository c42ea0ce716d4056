"""A small reader of the protobuf wire format: walks a memory-mapped message and copies nothing unasked.

ONNX and SavedModel files are protobuf messages. Their validators must look at every size and name before a
framework does, in plain Python, and must skip gigabytes of weights without touching them. So a message here
is a window (start, end) on the file; its fields are indexed when first asked for, one level deep.
The format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...targets.errors import SourceUnreadable

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""The wire types in use; 3 and 4 are groups, which neither ONNX nor TensorFlow writes."""

MAX_DEPTH = 64
"""Messages nested deeper than this are refused: a graph in a graph in a graph has no use beyond it."""

MAX_FIELDS = 2_000_000
"""Fields and packed numbers read of one file: bounds time and memory, above a graph of 100,000 operators."""

MAX_TEXT = 1 << 20
"""Longest name, operator or other text that is decoded, in bytes."""

Buffer = bytes | mmap.mmap


class Message:
    """One message: the bytes `start` to `end` of a buffer, its fields read on demand.

    `where` names the file and the field for errors. Every accessor raises `SourceUnreadable` on damage.
    Scalars follow protobuf's rule that the last value wins; absent fields give the default.
    """

    __slots__ = ("_index", "buffer", "depth", "end", "spent", "start", "where")

    def __init__(
        self, buffer: Buffer, start: int, end: int, where: str, depth: int = 0, spent: list[int] | None = None
    ) -> None:
        self.buffer = buffer
        self.start = start
        self.end = end
        self.where = where
        self.depth = depth
        self.spent = [0] if spent is None else spent
        self._index: dict[int, list[tuple[int, int, int]]] | None = None

    @property
    def nbytes(self) -> int:
        """Encoded length of this message in bytes."""
        return self.end - self.start

    @property
    def index(self) -> dict[int, list[tuple[int, int, int]]]:
        """Field number to its occurrences: (wire type, value, 0), or (LENGTH, start, end) into the buffer."""
        if self._index is None:
            self._index = self._read_index()
        return self._index

    def __contains__(self, number: int) -> bool:
        return number in self.index

    def integer(self, number: int, default: int = 0) -> int:
        """A scalar integer field as a signed 64-bit number (int32, int64, enum and bool are all sent so)."""
        values = self.integers(number)
        return values[-1] if values else default

    def integers(self, number: int) -> list[int]:
        """A repeated integer field, packed or not, as signed 64-bit numbers."""
        values: list[int] = []
        for wire, first, last in self.index.get(number, ()):
            if wire == VARINT:
                values.append(_signed(first))
            elif wire == LENGTH:
                values.extend(self._packed(first, last))
            else:
                raise self._wrong(number, "an integer", wire)
        return values

    def count(self, number: int, width: int | None = None) -> int:
        """Number of values of a repeated scalar field without decoding them.

        `width` is 4 or 8 for fixed-width values (float, double) and None for varints.
        """
        total = 0
        for wire, first, last in self.index.get(number, ()):
            if wire != LENGTH:
                total += 1
            elif width is None:
                total += _count_varints(self.buffer, first, last)
            elif (last - first) % width:
                raise self.error(f"{last - first} packed bytes are no multiple of {width}", number)
            else:
                total += (last - first) // width
        return total

    def float32(self, number: int, default: float = 0.0) -> float:
        """A scalar float field."""
        for wire, value, _ in reversed(self.index.get(number, [])):
            if wire != FIXED32:
                raise self._wrong(number, "a float", wire)
            return float(struct.unpack("<f", value.to_bytes(4, "little"))[0])
        return default

    def text(self, number: int, default: str = "") -> str:
        """A scalar string field, decoded as UTF-8."""
        values = self.texts(number)
        return values[-1] if values else default

    def texts(self, number: int) -> list[str]:
        """A repeated string field, decoded as UTF-8."""
        return [self._decode(number, *span) for span in self.spans(number)]

    def raw(self, number: int, limit: int = MAX_TEXT) -> bytes:
        """A scalar bytes field, copied; refused above `limit` bytes."""
        spans = self.spans(number)
        if not spans:
            return b""
        first, last = spans[-1]
        if last - first > limit:
            raise self.error(f"{last - first} bytes where at most {limit} are expected", number)
        return bytes(self.buffer[first:last])

    def spans(self, number: int) -> list[tuple[int, int]]:
        """Where the values of a length-delimited field lie: (start, end) offsets in the buffer."""
        found: list[tuple[int, int]] = []
        for wire, first, last in self.index.get(number, ()):
            if wire != LENGTH:
                raise self._wrong(number, "a length-delimited value", wire)
            found.append((first, last))
        return found

    def message(self, number: int, name: str) -> Message | None:
        """A sub-message, or None when it is absent; `name` is added to `where`.

        A singular field sent twice would have to be merged; no writer does that, so it is refused.
        """
        found = self.messages(number, name)
        if len(found) > 1:
            raise self.error(f"{name} occurs {len(found)} times, expected once", number)
        return found[0] if found else None

    def messages(self, number: int, name: str) -> list[Message]:
        """Repeated sub-messages; the n-th one's `where` ends in `name[n]`."""
        if self.depth >= MAX_DEPTH:
            raise self.error(f"messages are nested deeper than {MAX_DEPTH}", number)
        spans = self.spans(number)
        numbered = len(spans) > 1
        return [
            Message(
                self.buffer,
                *span,
                f"{self.where}: {name}[{n}]" if numbered else f"{self.where}: {name}",
                self.depth + 1,
                self.spent,
            )
            for n, span in enumerate(spans)
        ]

    def error(self, fact: str, number: int | None = None) -> SourceUnreadable:
        """The error for a fact about this message, with its place, to be raised."""
        field = "" if number is None else f" (field {number})"
        return SourceUnreadable(
            fact,
            where=f"{self.where}{field} at byte {self.start}",
            mend="The file is damaged or was not written by a known tool; export or copy it again.",
        )

    def _wrong(self, number: int, expected: str, wire: int) -> SourceUnreadable:
        return self.error(f"wire type {wire} where {expected} is expected", number)

    def _decode(self, number: int, first: int, last: int) -> str:
        if last - first > MAX_TEXT:
            raise self.error(f"a text of {last - first} bytes, at most {MAX_TEXT} are expected", number)
        try:
            return bytes(self.buffer[first:last]).decode("utf-8")
        except UnicodeDecodeError:
            raise self.error("a text that is not UTF-8", number) from None

    def _packed(self, position: int, end: int) -> Iterator[int]:
        self._spend(_count_varints(self.buffer, position, end))
        while position < end:
            value, position = self._varint(position, end)
            yield _signed(value)

    def _spend(self, fields: int) -> None:
        """Count work against the file's budget, which every message of the file shares."""
        self.spent[0] += fields
        if self.spent[0] > MAX_FIELDS:
            raise self.error(f"more than {MAX_FIELDS} fields in one file")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """The varint at `position` and the position after it; at most 10 bytes, all before `end`."""
        buffer = self.buffer
        result = shift = 0
        for at in range(position, min(end, position + 10)):
            byte = buffer[at]
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & 0xFFFF_FFFF_FFFF_FFFF, at + 1
            shift += 7
        fact = "a varint longer than 10 bytes"
        if end - position < 10:
            fact = "a varint runs past the end of its message"
        raise self.error(f"{fact} (byte {position})")

    def _read_index(self) -> dict[int, list[tuple[int, int, int]]]:
        buffer, position, end = self.buffer, self.start, self.end
        index: dict[int, list[tuple[int, int, int]]] = {}
        pending = 0
        while position < end:
            begin = position
            tag = buffer[position]
            position += 1
            if tag >= 0x80:
                tag, position = self._varint(begin, end)
            number, wire = tag >> 3, tag & 7
            if number == 0 or number >= 1 << 29:
                raise self.error(f"field number {number} at byte {begin} is not valid")
            if wire == LENGTH:
                length, position = self._varint(position, end)
                if length > end - position:
                    raise self.error(
                        f"{length} bytes are declared at byte {begin}, {end - position} are left", number
                    )
                entry = (LENGTH, position, position + length)
                position += length
            elif wire == VARINT:
                value, position = self._varint(position, end)
                entry = (VARINT, value, 0)
            elif wire in (FIXED32, FIXED64):
                width = 4 if wire == FIXED32 else 8
                if width > end - position:
                    raise self.error(
                        f"{width} bytes are expected at byte {position}, {end - position} are left", number
                    )
                entry = (wire, int.from_bytes(buffer[position : position + width], "little"), 0)
                position += width
            else:
                raise self.error(f"wire type {wire} at byte {begin} is not known", number)
            index.setdefault(number, []).append(entry)
            pending += 1
            if pending == 4096:
                self._spend(pending)
                pending = 0
        self._spend(pending)
        return index


def parse(data: bytes, where: str) -> Message:
    """A message held in memory; `where` names it in errors."""
    return Message(data, 0, len(data), where)


@contextmanager
def open_message(path: Path) -> Iterator[Message]:
    """The file `path` as one message, memory-mapped while the context lasts.

    Raises `SourceUnreadable` when the file cannot be read or is empty.
    """
    try:
        with path.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise SourceUnreadable(
            "the file is empty", where=path.name, mend="Copy or export it again."
        ) from None
    except OSError as error:
        raise SourceUnreadable(f"cannot be read: {error.strerror}", where=str(path)) from None
    with mapped:
        yield Message(mapped, 0, len(mapped), path.name)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_CONTINUED = bytes(range(0x80, 0x100))
"""The bytes of a varint that another byte of it follows."""


def _count_varints(buffer: Buffer, first: int, last: int) -> int:
    """Varints in a packed span: every one ends in a byte below 0x80, counted in pieces of 1 MiB."""
    total = 0
    for begin in range(first, last, 1 << 20):
        total += len(bytes(buffer[begin : min(last, begin + (1 << 20))]).translate(None, _CONTINUED))
    return total
