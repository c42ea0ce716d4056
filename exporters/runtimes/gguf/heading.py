"""What stands before the weights: keys and vocabulary of the model, and the list of its tensors."""

from __future__ import annotations

from pathlib import Path

from ....sources.gguf import header, parts
from ....sources.huggingface import checkpoint
from ...job import Job, Outcome, Progress
from . import blueprint, packing
from .one_pass import HEADER, TENSORS


def write(job: Job, progress: Progress) -> Outcome:
    """Write `header.gguf` (every key, no tensor) and `tensors.json` into the job's work folder."""
    stage = "write the header"
    progress(stage, 0, 1)
    work = Path(job.work)
    notes: tuple[str, ...] = ()
    if job.source_kind == "gguf":
        entries, tensors = _copied(Path(job.source_path))
    else:
        folder = Path(job.source_path)
        tensors, entries, notes = _drawn(folder, set(checkpoint.places(folder)), gate=True)
    (work / HEADER).write_bytes(header.encode(entries, ()))
    blueprint.save(tensors, work / TENSORS)
    progress(stage, 1, 1)
    return Outcome(notes=notes, data={"tensors": len(tensors)})


def foretold(job: Job) -> tuple[tuple[header.Entry, ...], tuple[blueprint.Tensor, ...]]:
    """Keys and tensors as config.json, the tokenizer's files and, where they are there, the weights' names imply.

    The pre-tokenizer's type is the best guess; the gate would only make it certain.
    """
    if job.source_kind == "gguf":
        return _copied(Path(job.source_path))
    folder = Path(job.source_path)
    names = set(checkpoint.places(folder)) if checkpoint.has_weights(folder) else None
    tensors, entries, _ = _drawn(folder, names, gate=False)
    return entries, tensors


def _copied(path: Path) -> tuple[tuple[header.Entry, ...], tuple[blueprint.Tensor, ...]]:
    """A GGUF model's own keys, and its tensors as they stand."""
    model = parts.read_model(path)
    tensors = tuple(
        blueprint.Tensor(name, place.shape, (name,), float32=place.dtype == "float32")
        for name, place in model.places.items()
    )
    return model.entries, tensors


def _drawn(
    folder: Path, names: set[str] | None, *, gate: bool
) -> tuple[tuple[blueprint.Tensor, ...], tuple[header.Entry, ...], tuple[str, ...]]:
    """A checkpoint's tensors, its keys, and notes for the report."""
    from . import architectures, vocabulary

    writer = architectures.new_writer(folder)
    tensors = architectures.draw(folder, writer, names)
    report = vocabulary.write(folder, writer, gate=gate)
    return tensors, packing.entries_of(writer), (*architectures.limits_of(folder), *report.notes)
