"""What stands before the weights: keys and vocabulary of the model, and the list of its tensors."""

from __future__ import annotations

from pathlib import Path

from ....sources.gguf import header, parts
from ....sources.huggingface import checkpoint
from ...job import Job, Outcome, Progress
from . import blueprint
from .one_pass import HEADER, TENSORS


def write(job: Job, progress: Progress) -> Outcome:
    """Write `header.gguf` (every key, no tensor) and `tensors.json` into the job's work folder."""
    stage = "write the header"
    progress(stage, 0, 1)
    work = Path(job.work)
    notes: tuple[str, ...] = ()
    if job.source_kind == "gguf":
        entries, tensors = _copied(Path(job.source_path))
        (work / HEADER).write_bytes(header.encode(entries, ()))
    else:
        folder = Path(job.source_path)
        tensors, notes = _drawn(folder, work, set(checkpoint.places(folder)), gate=True)
    blueprint.save(tensors, work / TENSORS)
    progress(stage, 1, 1)
    return Outcome(notes=notes, data={"tensors": len(tensors)})


def foretold(job: Job) -> tuple[tuple[header.Entry, ...], tuple[blueprint.Tensor, ...]]:
    """Keys and tensors as config.json and the tokenizer's files imply them: no weight is there yet.

    The pre-tokenizer's type is the best guess; the gate would only make it certain.
    """
    if job.source_kind == "gguf":
        return _copied(Path(job.source_path))
    work = Path(job.work)
    tensors, _ = _drawn(Path(job.source_path), work, None, gate=False)
    return header.read_header(work / HEADER).entries, tensors


def _copied(path: Path) -> tuple[tuple[header.Entry, ...], tuple[blueprint.Tensor, ...]]:
    """A GGUF model's own keys, and its tensors as they stand."""
    model = parts.read_model(path)
    tensors = tuple(
        blueprint.Tensor(name, place.shape, (name,), float32=place.dtype == "float32")
        for name, place in model.places.items()
    )
    return model.entries, tensors


def _drawn(
    folder: Path, work: Path, names: set[str] | None, *, gate: bool
) -> tuple[tuple[blueprint.Tensor, ...], tuple[str, ...]]:
    """Draw a checkpoint's tensors and write its keys to `HEADER` in the work folder."""
    from . import architectures, vocabulary

    writer = architectures.new_writer(folder)
    tensors = architectures.draw(folder, writer, names)
    report = vocabulary.write(folder, writer, gate=gate)
    writer.write_header_to_file(work / HEADER)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return tensors, report.notes
