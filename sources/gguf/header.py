"""Reads, validates and writes the header of a GGUF file: keys, values and tensors' places, never a weight.

Layout (gguf.h): "GGUF", uint32 version, uint64 tensors, uint64 entries; the entries; for each tensor its
name, uint32 rank, uint64 sizes (contiguous axis first), uint32 type, uint64 offset in the data section; then
padding up to the alignment, and the data section, in which every tensor is padded to the alignment.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...targets.errors import SourceUnreadable
from .types import TYPES, type_bytes
from .values import ARRAY, BOOL, NAMES, SIZES, STRING, UINT32, Entry, entry, text, value

__all__ = ["TYPES", "Entry", "Header", "Info", "encode", "entry", "read_header", "type_bytes", "value"]

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
"""The alignment of a file without `general.alignment`, in bytes."""
HEADER_LIMIT = 256 << 20
"""Bytes of metadata that are read: ten times the largest vocabulary."""
MAX_ENTRIES = 1 << 16
MAX_TENSORS = 1 << 17
MAX_STRINGS = 1 << 22
"""Strings in all arrays together; a vocabulary of 256k tokens with its merges has under a million."""
MAX_RANK = 4
MAX_KEY = 65_535
MAX_NAME = 63
"""Longest tensor name in bytes: GGML_MAX_NAME without its final zero."""
MAX_SIZE = 1 << 48

_AGAIN = "The file is damaged or was not fully copied; download or write it again"
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Info:
    """One tensor: its name, ggml type id, shape in numpy order and offset in the data section."""

    name: str
    type: int
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """The validated header of one file."""

    version: int
    entries: tuple[Entry, ...]
    tensors: tuple[Info, ...]
    """In the order in which their bytes lie in the file."""
    alignment: int
    data: int
    """First byte of the data section."""
    trailing: int = 0
    """Bytes behind the last tensor that belong to none."""

    def find(self, key: str) -> Entry | None:
        """The entry called `key`, if there is one."""
        return next((entry for entry in self.entries if entry.key == key), None)


def recognises(path: Path) -> bool:
    """Whether the file begins as a GGUF file does."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> Header:
    """The header of the GGUF file at `path`, of version 2 or 3 and little-endian.

    Refused with SourceUnreadable naming file and field: another version, counts and lengths that reach
    beyond the file, unknown types, nested arrays, keys and tensor names that stand twice, are unprintable or
    too long, an alignment that is no power of two, rows that are no whole blocks, and tensors that are
    unaligned, overlap, leave gaps or reach beyond the file: what llama.cpp refuses, and what it reads past.
    """
    try:
        with path.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise SourceUnreadable("the file is empty", where=path.name, mend=_AGAIN) from None
    except OSError as error:
        raise SourceUnreadable(f"cannot be read: {error.strerror}", where=path.name) from None
    with mapped:
        return _Reader(mapped, path.name).header()


class _Reader:
    """A position in a file that only moves over bytes that are there."""

    def __init__(self, buffer: mmap.mmap, file: str) -> None:
        self._buffer, self._file = buffer, file
        self._position, self._end = 0, len(buffer)
        self._strings = 0

    def header(self) -> Header:
        version, tensors, entries = self._counts()
        read = tuple(self._entries(entries))
        alignment = self._alignment(read)
        infos = tuple(self._infos(tensors))
        data = -(-self._position // alignment) * alignment
        last = self._check_places(infos, alignment, self._end - data)
        return Header(version, read, infos, alignment, data, max(0, self._end - data - last))

    def _fail(self, fact: str, field: str, mend: str = _AGAIN) -> SourceUnreadable:
        return SourceUnreadable(fact, where=f"{self._file}: {field}", mend=mend)

    def _need(self, count: int, field: str) -> int:
        """The position of the next `count` bytes, which must be there; moves behind them."""
        begin = self._position
        if count > self._end - begin:
            fact = f"{count:,} bytes are declared at byte {begin:,}, {self._end - begin:,} are left"
            raise self._fail(fact, field)
        self._position = begin + count
        if self._position > HEADER_LIMIT:
            raise self._fail(f"the metadata is larger than {HEADER_LIMIT:,} bytes", field)
        return begin

    def _integer(self, width: int, field: str) -> int:
        begin = self._need(width, field)
        return int.from_bytes(self._buffer[begin : begin + width], "little")

    def _text(self, field: str, limit: int) -> str:
        length = self._integer(8, field)
        if not 0 < length <= limit:
            raise self._fail(f"a length of {length:,} bytes is not between 1 and {limit:,}", field)
        begin = self._need(length, field)
        try:
            found = self._buffer[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError:
            raise self._fail("is not UTF-8", field) from None
        if not found.isprintable():
            raise self._fail(f"{found[:200]!r} holds control characters", field)
        return found

    def _counts(self) -> tuple[int, int, int]:
        """(version, tensors, entries), all three plausible for the file's size."""
        if self._buffer[:4] != MAGIC:
            raise self._fail(f"the file begins {self._buffer[:4]!r} instead of GGUF", "magic")
        self._need(4, "magic")
        version = self._integer(4, "version")
        if version & 0xFFFF == 0 and version:
            mend = "Convert it on the machine it was made for, or with gguf-py's gguf_convert_endian"
            raise self._fail("the file is big-endian", "version", mend)
        if version not in (2, VERSION):
            raise self._fail(f"version {version} is not 2 or 3", "version", "Write it with a newer llama.cpp")
        tensors, entries = self._integer(8, "tensor count"), self._integer(8, "entry count")
        for count, field, limit, least in (
            (tensors, "tensor count", MAX_TENSORS, 25),
            (entries, "entry count", MAX_ENTRIES, 14),
        ):
            if count > limit:
                raise self._fail(f"{count:,} are more than the {limit:,} allowed", field)
            if count * least > self._end - self._position:
                raise self._fail(f"{count:,} do not fit into a file of {self._end:,} bytes", field)
        return version, tensors, entries

    def _entries(self, count: int) -> Iterable[Entry]:
        seen: set[str] = set()
        for index in range(count):
            key = self._text(f"key {index}", MAX_KEY)
            if key in seen:
                raise self._fail("this key stands twice", key[:200])
            seen.add(key)
            begin = self._position
            self._skip_value(key[:200])
            yield Entry(key, self._buffer[begin : self._position])

    def _skip_value(self, key: str) -> None:
        kind, items, single = self._integer(4, key), 1, True
        if kind == ARRAY:
            kind, items, single = self._integer(4, key), self._integer(8, key), False
        if kind == ARRAY:
            raise self._fail("an array of arrays, which llama.cpp does not read", key)
        if kind not in NAMES:
            raise self._fail(f"unknown value type {kind}", key)
        if kind == STRING:
            self._skip_strings(items, key, single)
            return
        begin = self._need(items * SIZES[kind], key)
        if kind == BOOL and self._buffer[begin : self._position].strip(b"\0\1"):
            raise self._fail("a bool is neither 0 nor 1", key)

    def _skip_strings(self, items: int, key: str, single: bool) -> None:
        if not single:
            self._strings += items
            if self._strings > MAX_STRINGS:
                raise self._fail(f"{items:,} strings; over {MAX_STRINGS:,} are allowed in no file", key)
        if items * _LENGTH.size > self._end - self._position:
            left = self._end - self._position
            raise self._fail(f"{items:,} strings are declared, {left:,} bytes are left", key)
        buffer, unpack = self._buffer, _LENGTH.unpack_from
        position, last = self._position, self._end - _LENGTH.size
        for index in range(items):
            if position > last:
                raise self._fail(f"string {index:,} of {items:,} reaches beyond the file", key)
            position += 8 + unpack(buffer, position)[0]
        self._need(position - self._position, key)

    def _alignment(self, entries: tuple[Entry, ...]) -> int:
        field = "general.alignment"
        found = next((entry for entry in entries if entry.key == field), None)
        if found is None:
            return ALIGNMENT
        if found.kind != UINT32:
            raise self._fail(f"a uint32 is expected, not {NAMES[found.kind]}", field)
        alignment: int = value(found)
        if alignment < 1 or alignment & (alignment - 1):
            raise self._fail(f"{alignment} is no power of two", field)
        return alignment

    def _infos(self, count: int) -> Iterable[Info]:
        seen: set[str] = set()
        for index in range(count):
            name = self._text(f"name of tensor {index}", MAX_NAME)
            if name in seen:
                raise self._fail("this tensor stands twice", name)
            seen.add(name)
            rank = self._integer(4, f"{name}: rank")
            if rank > MAX_RANK:
                raise self._fail(f"{rank} axes, where ggml has at most {MAX_RANK}", name)
            sizes = [self._integer(8, f"{name}: shape") for _ in range(rank)] or [1]
            if not all(0 < size <= MAX_SIZE for size in sizes):
                raise self._fail(f"a size is not between 1 and {MAX_SIZE:,}: {sizes}", f"{name}: shape")
            kind = self._integer(4, f"{name}: type")
            if kind not in TYPES:
                known = ", ".join(f"{number} ({title[0]})" for number, title in sorted(TYPES.items()))
                raise self._fail(f"unknown tensor type {kind}", f"{name}: type", f"Known: {known}")
            title, block, _ = TYPES[kind]
            if sizes[0] % block:
                fact = f"rows of {sizes[0]:,} values are no whole blocks of {block} ({title})"
                raise self._fail(fact, f"{name}: shape")
            yield Info(name, kind, tuple(reversed(sizes)), self._integer(8, f"{name}: offset"))

    def _check_places(self, infos: tuple[Info, ...], alignment: int, data: int) -> int:
        """Tensors lie one behind the other, as llama.cpp wants them; returns where the last one ends."""
        expected = end = 0
        for info in infos:
            field, offset = f"{info.name}: offset", info.offset
            if offset % alignment:
                raise self._fail(f"{offset:,} is no multiple of the alignment {alignment}", field)
            if offset < expected:
                raise self._fail("overlaps the tensor before it", field)
            if offset > expected:
                raise self._fail(f"{offset - expected:,} bytes before it belong to no tensor", field)
            end = offset + type_bytes(info.type, info.shape)
            if end > data:
                fact = f"ends at byte {end:,} of the {max(0, data):,} bytes of data that are there"
                raise self._fail(fact, info.name)
            expected = -(-end // alignment) * alignment
        return expected


def encode(entries: Iterable[Entry], tensors: Iterable[Info], alignment: int = ALIGNMENT) -> bytes:
    """The header that gguf.cpp writes for these entries and tensors, padded: the data begins at its end.

    Axes of 1 in front are left out, as there. A `general.alignment` among the entries is the caller's.
    """
    entries, tensors = tuple(entries), tuple(tensors)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(entries))]
    for item in entries:
        parts += [text(item.key), item.raw]
    for info in tensors:
        sizes = list(reversed(info.shape)) or [1]
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        shape = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        parts += [text(info.name), shape, struct.pack("<IQ", info.type, info.offset)]
    size = sum(map(len, parts))
    return b"".join(parts) + bytes(-size % alignment)
