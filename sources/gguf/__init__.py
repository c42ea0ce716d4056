"""GGUF as a source: a file that llama.cpp runs, to be quantized again."""

from __future__ import annotations

from pathlib import Path

from ..place import Place
from .header import TYPES, read_header, type_bytes


def places(path: Path) -> dict[str, Place]:
    """Where each tensor of the GGUF file at `path` lies, by name, in the order of the file."""
    header = read_header(path)
    return {
        info.name: Place(
            path,
            header.data + info.offset,
            TYPES[info.type][0],
            info.shape,
            type_bytes(info.type, info.shape),
        )
        for info in header.tensors
    }
