"""What a source is: a path that was recognised and passed its format's pre-flight validator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "torch-exported": "PyTorch ExportedProgram (.pt2)",
    "huggingface": "Hugging Face encoder or vision model directory",
    "causal-lm": "Hugging Face causal language model directory",
    "onnx": "ONNX model, with or without external data",
    "saved-model": "TensorFlow SavedModel directory",
    "keras": "Keras 3 archive (.keras)",
    "gguf": "GGUF language model (llama.cpp)",
}
"""Every kind of source, with the words that people read."""


@dataclass(frozen=True)
class Source:
    """A validated model on disk. Immutable; opening it read headers only and executed nothing."""

    kind: str
    """A key of `KINDS`."""
    path: Path
    """The file or directory that the user named, absolute and resolved."""
    files: tuple[Path, ...]
    """Every file that belongs to the model, absolute, sorted, each inside `path` or beside it."""

    @property
    def name(self) -> str:
        """A short name for files and tables: the stem of the file or the folder's name."""
        return self.path.stem if self.path.is_file() else self.path.name

    @property
    def nbytes(self) -> int:
        """Bytes on disk of all files together."""
        return sum(file.stat().st_size for file in self.files)

    def sha256(self) -> str:
        """One hash over all files: SHA-256 of the lines "<hash of the file>  <relative name>"."""
        total = hashlib.sha256()
        root = self.path if self.path.is_dir() else self.path.parent
        for file in self.files:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            name = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
            total.update(f"{digest}  {name}\n".encode())
        return total.hexdigest()
