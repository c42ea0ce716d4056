"""The index of a TensorFlow checkpoint (`variables.index`): what tensors are stored, and where, without TensorFlow.

The index is a LevelDB-style sorted table of key to BundleEntryProto; the tensors' bytes lie in
`variables.data-0000x-of-0000y`. Table format: tensorflow/core/lib/io/table_format.txt; entries:
tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from ...targets.errors import SourceUnreadable
from ...targets.facts import DTYPE_BITS
from ..files.containment import contained
from ..files.protobuf import Message, parse

TF_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64",
    9: "int64", 10: "bool", 11: "int8", 12: "uint8", 13: "int32", 14: "bfloat16", 15: "int16", 16: "uint16",
    17: "uint16", 18: "complex128", 19: "float16", 20: "resource", 21: "variant", 22: "uint32", 23: "uint64",
    24: "float8_e5m2", 25: "float8_e4m3", 29: "int4", 30: "uint4",
}  # fmt: skip
"""tensorflow.DataType to modelport's names (qint8 and its kin are stored as the plain integers)."""

MAX_INDEX = 32 << 20
"""Largest index file that is read: 100,000 tensors take about 10 MB."""
MAX_SHARDS = 10_000
MAX_RANK = 254
"""TensorFlow's own limit."""

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5
_AGAIN = "Export the model again, or copy the whole folder again"


@dataclass(frozen=True)
class Entry:
    """One stored tensor: `size` bytes at `offset` of `file`.

    The head of a partitioned variable has the size 0: its pieces have entries of their own.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int


def read_index(root: Path, name: str = "variables/variables") -> tuple[dict[str, Entry], tuple[Path, ...]]:
    """Entries by key, and the files of the checkpoint `name` inside the folder `root`.

    Checked: the table's structure and checksums, dtype × shape against size, every tensor inside its data
    file, and no two overlapping. Raises `SourceUnreadable` naming file and field.
    """
    index = contained(root, f"{name}.index", where=f"{root.name}: {name}.index")
    size = index.stat().st_size
    if size > MAX_INDEX:
        raise SourceUnreadable(f"{size:,} bytes are more than an index has", where=index.name)
    entries: dict[str, Entry] = {}
    shards: list[Path] = []
    for key, value in _table(index.read_bytes(), index.name):
        message = parse(value, f"{index.name}: {_shown(key)}")
        if key == b"":
            shards = _shards(message, root, name)
            continue
        if not shards:
            raise SourceUnreadable("the header is missing", where=index.name, mend=_AGAIN)
        entry = _entry(key, message, shards)
        entries[entry.key] = entry
    if not shards:
        raise SourceUnreadable("the table has no header", where=index.name, mend=_AGAIN)
    _check_overlaps(entries, index.name)
    return entries, (index, *shards)


def _shards(header: Message, root: Path, name: str) -> list[Path]:
    count = header.integer(1)
    if not 1 <= count <= MAX_SHARDS:
        raise SourceUnreadable(f"{count} data files", where=f"{header.where} num_shards", mend=_AGAIN)
    if header.integer(2) != 0:
        raise SourceUnreadable("the tensors are stored big-endian", where=f"{header.where} endianness")
    names = (f"{name}.data-{shard:05d}-of-{count:05d}" for shard in range(count))
    return [contained(root, shard, where=f"{root.name}: {shard}") for shard in names]


def _entry(key: bytes, message: Message, shards: list[Path]) -> Entry:
    where = message.where
    code = message.integer(1)
    dtype = TF_DTYPES.get(code)
    if dtype is None or dtype == "resource":
        raise SourceUnreadable(f"data type {code} is not known", where=f"{where} dtype", mend=_AGAIN)
    shape = read_shape(message.message(2, "shape"))
    if shape is None or any(size < 0 for size in shape):
        raise SourceUnreadable("the shape is not known in full", where=f"{where} shape", mend=_AGAIN)
    name = key.decode("utf-8", "backslashreplace")
    if 7 in message:
        return Entry(name, dtype, shape, shards[0], 0, 0)
    shard, offset, size = message.integer(3), message.integer(4), message.integer(5)
    if not 0 <= shard < len(shards):
        raise SourceUnreadable(f"data file {shard} of {len(shards)}", where=f"{where} shard_id", mend=_AGAIN)
    bits = DTYPE_BITS.get(dtype, 0)
    expected = prod(shape) * int(max(bits, 8)) // 8
    if bits and size != expected:
        fact = f"{size:,} bytes where {dtype} {list(shape)} needs {expected:,}"
        raise SourceUnreadable(fact, where=f"{where} size", mend=_AGAIN)
    end = shards[shard].stat().st_size
    if offset < 0 or size < 0 or offset + size > end:
        fact = f"bytes {offset:,} to {offset + size:,} of {shards[shard].name}, which has {end:,}"
        raise SourceUnreadable(fact, where=f"{where} offset", mend=_AGAIN)
    return Entry(name, dtype, shape, shards[shard], offset, size)


def _check_overlaps(entries: dict[str, Entry], index: str) -> None:
    used = sorted(
        (entry.file, entry.offset, entry.size, entry.key) for entry in entries.values() if entry.size
    )
    for (file, offset, size, key), (other, start, _, name) in pairwise(used):
        if file == other and start < offset + size:
            raise SourceUnreadable(f"it overlaps {key!r}", where=f"{index}: {name!r} offset", mend=_AGAIN)


def read_shape(message: Message | None) -> tuple[int, ...] | None:
    """A TensorShapeProto: sizes, -1 for free ones; None when the rank is unknown. Absent means a scalar."""
    if message is None:
        return ()
    if message.integer(3):
        return None
    if len(message.spans(2)) > MAX_RANK:
        raise message.error(f"a rank of {len(message.spans(2))}")
    return tuple(dim.integer(1) for dim in message.messages(2, "dim"))


def _table(data: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Key and value pairs of a sorted table, in order; `data` is the whole file."""
    if len(data) < _FOOTER or data[-8:] != _MAGIC:
        raise SourceUnreadable("the table's footer is missing", where=f"{where}: footer", mend=_AGAIN)
    at, end = len(data) - _FOOTER, len(data) - 8
    _, at = _handle(data, at, end, where)
    block, _ = _handle(data, at, end, where)
    last: bytes | None = None
    for _, value in _block(data, *block, where):
        handle, _ = _handle(value, 0, len(value), where)
        for key, entry in _block(data, *handle, where):
            if last is not None and key <= last:
                raise SourceUnreadable("keys are not in order", where=f"{where}: {_shown(key)}", mend=_AGAIN)
            last = key
            yield key, entry


def _handle(data: bytes, at: int, end: int, where: str) -> tuple[tuple[int, int], int]:
    """A block's (offset, size), and the position after it."""
    offset, at = _varint(data, at, end, where)
    size, at = _varint(data, at, end, where)
    return (offset, size), at


def _block(data: bytes, offset: int, size: int, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Entries of one block: keys are stored as the part that differs from the key before."""
    place = f"{where}: block at byte {offset}"
    end = offset + size
    if size < 4 or end + _TRAILER > len(data):
        raise SourceUnreadable(f"{size:,} bytes do not fit the file", where=place, mend=_AGAIN)
    if data[end] != 0:
        raise SourceUnreadable("the block is compressed", where=place, mend="TensorFlow writes it plain")
    stored = int.from_bytes(data[end + 1 : end + _TRAILER], "little")
    if _masked(crc32c(data[offset : end + 1])) != stored:
        raise SourceUnreadable("the checksum is wrong", where=place, mend=_AGAIN)
    restarts = int.from_bytes(data[end - 4 : end], "little")
    limit = end - 4 - 4 * restarts
    at, key = offset, b""
    if limit < offset:
        raise SourceUnreadable(f"{restarts} restart points do not fit", where=place, mend=_AGAIN)
    while at < limit:
        shared, at = _varint(data, at, limit, where)
        fresh, at = _varint(data, at, limit, where)
        length, at = _varint(data, at, limit, where)
        if shared > len(key) or fresh + length > limit - at:
            raise SourceUnreadable(f"an entry at byte {at} does not fit", where=place, mend=_AGAIN)
        key = key[:shared] + data[at : at + fresh]
        yield key, data[at + fresh : at + fresh + length]
        at += fresh + length


def _varint(data: bytes, at: int, end: int, where: str) -> tuple[int, int]:
    value = shift = 0
    for position in range(at, min(end, at + 10)):
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return value, position + 1
        shift += 7
    raise SourceUnreadable(f"a number at byte {at} does not end", where=where, mend=_AGAIN)


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), the checksum of TensorFlow's table blocks."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    """The form in which tables store a checksum (tensorflow/core/lib/hash/crc32c.h)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _shown(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace")[:200])
