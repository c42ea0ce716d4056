"""The layout of a GGUF file as llama.cpp's quantizer writes it: order of keys and tensors, offsets, size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ....sources.gguf import header

ALIGNMENT = 32
QUANTIZATION_VERSION = 2
"""GGML_QNT_VERSION: the generation of block formats that every ggml since May 2023 writes."""

MOVED = ("general.quantization_version", "general.file_type")
"""Keys that the quantizer sets anew, and which so come last."""
DROPPED = ("split.no", "split.count", "split.tensors.count")
"""Keys of a file in parts."""
ALIGNED = "general.alignment"
"""Kept where it says `ALIGNMENT`. llama.cpp keeps any other, and spoils the file by aligning to 32."""

UINT32 = 4
"""GGUF's id of the value type."""


@dataclass(frozen=True)
class Described:
    """One tensor by name, ggml type and shape (numpy order), with no place in a file yet."""

    name: str
    type: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data, without padding."""
        return header.type_bytes(self.type, self.shape)

    @property
    def padded(self) -> int:
        """Bytes that it takes in the file."""
        return self.nbytes + -self.nbytes % ALIGNMENT


@dataclass(frozen=True)
class Layout:
    """A whole file before its data is there: what stands in front, and where each tensor's data begins."""

    front: bytes
    """Magic, keys and tensor list, padded: tensor data begins at its end."""
    begins: dict[str, int]
    """First byte of each tensor in the file."""
    total: int
    """Bytes of the file."""


def order(names: Iterable[str]) -> list[str]:
    """Names as llama.cpp's loader sorts them: by layer, those without one first, then by bytes."""

    def rank(name: str) -> tuple[int, bytes]:
        layer = re.match(r"blk\.(\d+)", name)
        return int(layer[1]) if layer else -1, name.encode()

    return sorted(names, key=rank)


def lay_out(entries: Iterable[header.Entry], tensors: Sequence[Described], file_type: int) -> Layout:
    """The layout of a file of these keys and tensors; `file_type` is llama.cpp's id of the scheme.

    The tensors come in the loader's order, whatever order they are given in.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    infos, offset = [], 0
    for name in order(by_name):
        tensor = by_name[name]
        infos.append(header.Info(name, tensor.type, tensor.shape, offset))
        offset += tensor.padded
    front = header.encode(_settled(entries, file_type), infos, ALIGNMENT)
    begins = {info.name: len(front) + info.offset for info in infos}
    return Layout(front, begins, len(front) + offset)


def _settled(entries: Iterable[header.Entry], file_type: int) -> tuple[header.Entry, ...]:
    kept = tuple(
        entry
        for entry in entries
        if entry.key not in MOVED + DROPPED and (entry.key != ALIGNED or header.value(entry) == ALIGNMENT)
    )
    version, kind = MOVED
    return (
        *kept,
        header.entry(version, UINT32, QUANTIZATION_VERSION),
        header.entry(kind, UINT32, file_type),
    )
