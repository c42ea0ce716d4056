"""Metadata and tensors of each covered architecture, as llama.cpp's own converter would write them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..blueprint import Tensor
from .covered import COVERED, require_covered

__all__ = ["COVERED", "draw", "limits_of", "new_writer", "require_covered"]


def new_writer(folder: Path) -> Any:
    """A gguf.GGUFWriter without a file for the architecture of the checkpoint in `folder`."""
    import gguf

    from . import family

    arch = family.find(family.read_model(folder).architecture).arch
    return gguf.GGUFWriter(path=None, arch=gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[arch]])


def draw(folder: Path, writer: Any, names: Collection[str] | None = None) -> tuple[Tensor, ...]:
    """Add the general.* keys and the architecture's to `writer`, and give every tensor of the file.

    Order, types and values are those of llama.cpp's converter; the quantization version and the file type,
    which the quantizer moves, and tokenizer.* are left to others. `names`: the names of the checkpoint's
    tensors; None for those that config.json implies, before a weight is read.

    Raises Unsupported for what llama.cpp cannot compute, and SourceUnreadable naming file and field.
    """
    from . import family, general, tensors

    model = family.read_model(folder)
    described = family.find(model.architecture)
    found = tensors.listed(model, described, names)
    described.first(model, writer)
    general.add(model, described, writer, found)
    described.parameters(model, writer)
    return found


def limits_of(folder: Path) -> tuple[str, ...]:
    """What llama.cpp computes otherwise than the checkpoint's own code, as sentences for the report."""
    from . import family, limits

    return limits.notes(family.read_model(folder))
