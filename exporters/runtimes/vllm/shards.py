"""Writes safetensors files whose layout is known beforehand, tensor by tensor, under Hugging Face's file names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ....sources.huggingface.checkpoint import INDEX, SINGLE
from ....targets.errors import ConversionFailed
from .layout import Stored

SHARD_BYTES = 20_000_000_000
"""Most bytes of tensors in one file: llm-compressor's own max_shard_size."""

DTYPES: Mapping[str, str] = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "float32": "F32", "uint32": "U32", "int32": "I32",
    "bfloat16": "BF16", "float16": "F16", "float8_e4m3": "F8_E4M3", "int8": "I8", "uint8": "U8",
}  # fmt: skip
"""modelport's names to the format's, in the order in which the safetensors library lays tensors out."""
_RANK = {name: number for number, name in enumerate(DTYPES)}


@dataclass(frozen=True)
class Shard:
    """One file: its header, and the first byte of each tensor."""

    file: str
    front: bytes
    begins: Mapping[str, int]
    nbytes: int
    """Of the whole file."""


@dataclass(frozen=True)
class Files:
    """All files of the weights, the index among them, before any of them is written."""

    shards: tuple[Shard, ...]
    index: bytes | None
    """Content of model.safetensors.index.json; None where there is one file only."""

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        return sum(shard.nbytes for shard in self.shards) + len(self.index or b"")

    @property
    def names(self) -> tuple[str, ...]:
        """The files' names."""
        return (*(shard.file for shard in self.shards), *((INDEX,) if self.index is not None else ()))


def plan(tensors: Sequence[Stored], most: int | None = None) -> Files:
    """Spread tensors over files in their order, at most `most` bytes each (a larger tensor has one of its own).

    `most` is `SHARD_BYTES` where it is not given.
    """
    most = most or SHARD_BYTES
    groups: list[list[Stored]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.nbytes > most:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.nbytes
    if len(groups) == 1:
        return Files((_shard(SINGLE, groups[0]),), None)
    names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
    shards = tuple(_shard(name, group) for name, group in zip(names, groups, strict=True))
    where = {tensor.name: name for name, group in zip(names, groups, strict=True) for tensor in group}
    total = sum(tensor.nbytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    return Files(shards, (json.dumps(index, indent=2, sort_keys=True) + "\n").encode())


def _shard(file: str, tensors: Iterable[Stored]) -> Shard:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset, begins = 0, {}
    for tensor in sorted(tensors, key=lambda tensor: (_RANK[tensor.dtype], tensor.name)):
        end = offset + tensor.nbytes
        header[tensor.name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        begins[tensor.name], offset = offset, end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    front = len(text).to_bytes(8, "little") + text
    return Shard(file, front, {n: begin + len(front) for n, begin in begins.items()}, offset + len(front))


class Writer:
    """The open files. Every tensor must be written, in whole and once; `close` says so otherwise."""

    def __init__(self, folder: Path, files: Files, tensors: Sequence[Stored]) -> None:
        self._folder, self._files = folder, files
        self._left = {tensor.name: tensor.nbytes for tensor in tensors}
        self._handles: dict[str, int] = {}
        self._places: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Writer:
        """Create the files and write their headers; space is taken at once, so that a full disk shows now."""
        for shard in self._files.shards:
            handle = os.open(self._folder / shard.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            self._handles[shard.file] = handle
            os.pwrite(handle, shard.front, 0)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, shard.nbytes)
            self._places |= {name: (handle, begin) for name, begin in shard.begins.items()}
        if self._files.index is not None:
            (self._folder / INDEX).write_bytes(self._files.index)
        return self

    def write(self, name: str, data: bytes | memoryview, offset: int = 0) -> None:
        """Put bytes of a tensor at `offset` in it."""
        handle, begin = self._places[name]
        view = memoryview(data).cast("B")
        self._left[name] -= len(view)
        while view:
            done = os.pwrite(handle, view, begin + offset)
            view, offset = view[done:], offset + done

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; raises ConversionFailed where a tensor was not written whole."""
        for handle in self._handles.values():
            os.close(handle)
        missing = [name for name, left in self._left.items() if left]
        if kind is None and missing:
            raise ConversionFailed(
                f"{len(missing)} tensors were not written whole, as {missing[0]}", where="writing shards"
            )
