"""Where a stored tensor lies: what a streaming exporter needs to read it without loading the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """One tensor's bytes in a file, contiguous and in C order, checked against the file's size."""

    file: Path
    begin: int
    """First byte in the file."""
    dtype: str
    """A name of `facts.DTYPE_BITS`, or of `facts.BLOCK_BITS` for ggml's quantized blocks ("q8_0")."""
    shape: tuple[int, ...]
    """As numpy counts: the contiguous axis last."""
    nbytes: int
