"""Reads and validates the header of a safetensors file: names, dtypes, shapes and places, never a weight.

Layout (the format's own specification): 8 bytes little-endian header length, the header as JSON, then the
tensors' bytes. A header maps a name to {"dtype", "shape", "data_offsets": [begin, end]}, with offsets
relative to the end of the header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...targets.errors import SourceUnreadable
from ...targets.facts import TensorFact
from ..files import jsonfile

HEADER_LIMIT = 100_000_000
"""The safetensors library's own limit on the header, in bytes."""
MAX_RANK = 32

DTYPES: Mapping[str, tuple[str, int]] = {
    "BOOL": ("bool", 1), "U8": ("uint8", 1), "I8": ("int8", 1), "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3": ("float8_e4m3", 1), "I16": ("int16", 2), "U16": ("uint16", 2), "F16": ("float16", 2),
    "BF16": ("bfloat16", 2), "I32": ("int32", 4), "U32": ("uint32", 4), "F32": ("float32", 4),
    "F64": ("float64", 8), "I64": ("int64", 8), "U64": ("uint64", 8), "C64": ("complex64", 8),
}  # fmt: skip
"""The format's dtype names: modelport's name and bytes per element."""

_AGAIN = "The file is damaged or was not fully copied; download or save it again"


@dataclass(frozen=True)
class Header:
    """The validated header of one file. `begins` gives each tensor's first byte in the file."""

    path: Path
    tensors: tuple[TensorFact, ...]
    """In the order in which their bytes lie in the file."""
    begins: Mapping[str, int]
    metadata: Mapping[str, str]


def recognises(path: Path) -> bool:
    """Whether the file begins as a safetensors file does: a plausible length and an opening brace."""
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError:
        return False
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_LIMIT


def read_header(path: Path) -> Header:
    """The header of the safetensors file at `path`.

    Refused with SourceUnreadable naming file and field: a header longer than the file or the limit, JSON of
    another form, unknown dtypes, shapes that do not match their bytes, tensors that overlap, reach beyond
    the file or leave gaps, and bytes that belong to no tensor.
    """
    where = f"{path.name}: header"
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                fact = f"a header of {length:,} bytes in a file of {size:,}"
                raise SourceUnreadable(fact, where=where, mend=_AGAIN)
            if length > HEADER_LIMIT:
                raise SourceUnreadable(f"{length:,} bytes are over {HEADER_LIMIT:,}", where=where)
            content = stream.read(length)
    except OSError as error:
        raise SourceUnreadable(f"cannot be read: {error.strerror}", where=path.name) from None
    raw = jsonfile.parse(content, where) if content[:1] == b"{" else None
    if not isinstance(raw, dict):
        raise SourceUnreadable("a JSON object is expected", where=where, mend=_AGAIN)
    metadata = _metadata(raw.pop("__metadata__", {}), path.name)
    spans = sorted(_entry(path.name, name, entry) for name, entry in raw.items())
    _check_places(path.name, spans, size - 8 - length)
    return Header(
        path,
        tuple(fact for _, _, _, fact in spans),
        {fact.name: 8 + length + begin for begin, _, _, fact in spans},
        metadata,
    )


def _metadata(raw: object, file: str) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise SourceUnreadable("an object of texts is expected", where=f"{file}: __metadata__")
    return raw


def _entry(file: str, name: str, entry: Any) -> tuple[int, int, str, TensorFact]:
    """(begin, end, name, fact) of one tensor, its bytes checked against dtype and shape."""
    where = f"{file}: {name[:200]}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise SourceUnreadable("dtype, shape and data_offsets are expected", where=where, mend=_AGAIN)
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        known = " ".join(DTYPES)
        raise SourceUnreadable(
            f"unknown dtype {str(dtype)[:40]!r}", where=f"{where}.dtype", mend=f"Known: {known}"
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or len(shape) > MAX_RANK:
        raise SourceUnreadable("a list of sizes is expected", where=f"{where}.shape", mend=_AGAIN)
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        fact = "two ascending offsets are expected"
        raise SourceUnreadable(fact, where=f"{where}.data_offsets", mend=_AGAIN)
    kind, nbytes = DTYPES[dtype]
    for dimension in shape:
        nbytes *= dimension
    begin, end = offsets
    if nbytes != end - begin:
        fact = f"shape {shape} of {dtype} takes {nbytes:,} bytes, the offsets span {end - begin:,}"
        raise SourceUnreadable(fact, where=f"{where}.data_offsets", mend=_AGAIN)
    return begin, end, name, TensorFact(name, kind, tuple(shape), nbytes)


def _sizes(value: object) -> bool:
    limit = jsonfile.MAX_INTEGER
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= limit for item in value)


def _check_places(file: str, spans: list[tuple[int, int, str, TensorFact]], data: int) -> None:
    """Tensors must fill the data section: no overlap, no gap, nothing after the last one."""
    position = 0
    for begin, end, name, _ in spans:
        where = f"{file}: {name[:200]}.data_offsets"
        if begin < position:
            raise SourceUnreadable("overlaps the tensor before it", where=where, mend=_AGAIN)
        if begin > position:
            raise SourceUnreadable(f"leaves a gap of {begin - position:,} bytes", where=where, mend=_AGAIN)
        if end > data:
            fact = f"ends at byte {end:,} of {data:,} that are there"
            raise SourceUnreadable(fact, where=where, mend=_AGAIN)
        position = end
    if position != data:
        fact = f"{data - position:,} bytes at the end belong to no tensor"
        raise SourceUnreadable(fact, where=file, mend=_AGAIN)
