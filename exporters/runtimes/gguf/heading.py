"""What stands before the weights: keys and vocabulary of the model, and the list of its tensors."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ....sources.gguf import header, parts, values
from ....sources.huggingface import checkpoint
from ...job import Job, Outcome, Progress
from . import blueprint
from .one_pass import HEADER, TENSORS

ITEMS = {
    str: values.STRING,
    bytes: values.STRING,
    bytearray: values.STRING,
    float: values.FLOAT32,
    bool: values.BOOL,
    int: values.INT32,
}
"""GGUF's types of what gguf.GGUFWriter is given in lists."""


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
    return tensors, entries_of(writer), report.notes


def entries_of(writer: Any) -> tuple[header.Entry, ...]:
    """The keys that a gguf.GGUFWriter holds, as it would write them; its own way takes seconds for a vocabulary."""
    return tuple(
        header.Entry(key, struct.pack("<I", item.type) + _payload(int(item.type), item.value, item.sub_type))
        for key, item in writer.kv_data[0].items()
    )


def _payload(kind: int, value: Any, items: int | None = None) -> bytes:
    """A value's bytes after its type; `items` is the type of an array's items where the writer was told."""
    if kind == values.STRING:
        return _strings([value])
    if kind != values.ARRAY:
        return struct.pack(f"<{values.FORMATS[kind]}", value)
    if items is None:
        items = values.UINT8 if isinstance(value, bytes) else _item_type(value)
    head = struct.pack("<IQ", items, len(value))
    if items == values.STRING:
        return head + _strings(value)
    return head + struct.pack(f"<{len(value)}{values.FORMATS[items]}", *value)


def _item_type(items: Sequence[Any]) -> int:
    """What gguf takes Python's values for."""
    kinds = {ITEMS.get(kind) for kind in set(map(type, items))}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        raise ValueError(
            f"the items of an array are {', '.join(sorted({type(item).__name__ for item in items}))}"
        )
    return kind


def _strings(items: Iterable[str | bytes]) -> bytes:
    encoded = [item.encode() if isinstance(item, str) else bytes(item) for item in items]
    return b"".join([part for raw in encoded for part in (len(raw).to_bytes(8, "little"), raw)])
