"""GGUF as a source: a model that llama.cpp runs, to be quantized again."""

from __future__ import annotations

from pathlib import Path

from ...targets.facts import BLOCK_BITS, IoFact, ModelFacts, TensorFact
from ..place import Place
from ..source import Source
from . import geometry, header
from .parts import Model, read_model

KIND = "gguf"


def recognises(path: Path) -> bool:
    """Whether `path` is a file that begins as a GGUF file does."""
    return path.is_file() and header.recognises(path)


def open(path: Path) -> Source:
    """The validated model whose only or first file is `path`; reads headers only.

    Raises SourceUnreadable for a damaged or inconsistent file, and Unsupported for what is no decoder-only
    language model.
    """
    model = read_model(path)
    geometry.read(model)
    return Source(KIND, path, tuple(sorted(model.files)))


def places(path: Path) -> dict[str, Place]:
    """Where each tensor of the model at `path` lies, by name, in the order of its files."""
    return dict(read_model(path).places)


def inspect(source: Source, *, sequence: int = 128) -> ModelFacts:
    """Geometry and weights. Operators are left out: prefill and decode follow from the geometry."""
    model = read_model(source.path)
    llm = geometry.read(model)
    return ModelFacts(
        kind=KIND,
        name=source.name,
        architecture=llm.architecture,
        tensors=tuple(
            TensorFact(name, place.dtype, place.shape, place.nbytes) for name, place in model.places.items()
        ),
        inputs=(IoFact("input_ids", "int64", ("batch", "sequence")),),
        outputs=(IoFact("logits", "float32", ("batch", "sequence", llm.vocab)),),
        llm=llm,
        assumed={"batch": 1, "sequence": min(sequence, llm.context)},
        notes=_notes(model),
    )


def _notes(model: Model) -> tuple[str, ...]:
    notes = []
    blocks = [place for place in model.places.values() if place.dtype in BLOCK_BITS]
    if blocks:
        kinds = ", ".join(sorted({place.dtype for place in blocks}))
        notes.append(f"The weights are quantized already ({kinds}): what that lost does not come back.")
    if model.trailing:
        notes.append(f"{model.trailing:,} bytes behind the tensors belong to none, and are left out.")
    return tuple(notes)
