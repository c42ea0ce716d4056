"""The tokenizer in a GGUF file: its entries as llama.cpp's converter writes them, held to the model's own ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .....calibration.language_tokenizer.files import Files
from .....calibration.language_tokenizer.reference import Reference, load_reference, reference_of
from . import entries, families, pretokenizers
from . import gate as parity

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["Reference", "Report", "load_reference", "write"]

MENDED = (
    "The tokens' scores come from the order of the merges: those that llama.cpp's converter writes for a"
    " tokenizer.json alone give other ids"
)


@dataclass(frozen=True)
class Report:
    """What was written: the pre-tokenizer's name (None for SentencePiece), lines that agreed, notes for the report."""

    pre: str | None
    lines: int
    notes: tuple[str, ...]


def write(folder: Path, writer: GGUFWriter, *, gate: bool) -> Report:
    """Add the tokenizer's entries to the writer, after the architecture's, in the converter's order.

    With `gate`, each line of parity.txt and lines with the model's special tokens are encoded by the model's
    own tokenizer and by llama.cpp, and must get the same ids; the pre-tokenizer's name is the one with which
    they do. Without (for sizes), nothing is loaded in llama.cpp and the name is the likeliest one; but where
    the files alone do not tell it, it is found in the same way, for its length counts.

    Raises SourceUnreadable for damaged files, Unsupported for a tokenizer that llama.cpp has no form for, and
    ConversionFailed with the first line that differs.
    """
    files = Files(folder)
    loaded: list[Reference] = []

    def reference() -> Reference:
        if not loaded:
            loaded.append(reference_of(files))
        return loaded[0]

    hints = pretokenizers.hints(files)
    written = families.write_family(
        files, writer, lambda: hints[0], lambda number: reference().decode([number])
    )
    made = written.vocabulary
    byte_level = made.kind == "gpt2"
    told = pretokenizers.recognised(files) if byte_level else written.usual
    if not gate and told:
        return Report(hints[0] if byte_level else None, 0, tuple(files.notes))
    checked = parity.Gate(files, made, reference())
    if byte_level:
        passed = parity.find_pre(checked, writer, hints)
    else:
        others = [lambda: _prefix(writer)]
        if written.mended:
            others.insert(0, lambda: _mend(written, checked, writer))
        passed = parity.require_agreement(checked, writer, others)
    return Report(passed.pre if byte_level else None, passed.lines, (*files.notes, *passed.notes))


def _mend(written: families.Written, checked: parity.Gate, writer: GGUFWriter) -> str:
    assert written.mended is not None
    made = written.mended()
    for key, value in (
        (entries.TOKENS, made.tokens),
        (entries.SCORES, made.scores),
        (entries.TYPES, made.types),
    ):
        writer.kv_data[0][key].value = value
    checked.take(made)
    return MENDED


def _prefix(writer: GGUFWriter) -> str:
    """The other choice of whether a text begins with a space, which SentencePiece's add_dummy_prefix makes."""
    key = "tokenizer.ggml.add_space_prefix"
    entry = writer.kv_data[0].get(key)
    value = not (entry is None or entry.value)
    if entry is None:
        writer.add_add_space_prefix(value)
    else:
        entry.value = value
    return (
        f"add_space_prefix is {value}, as the model's tokenizer does: what llama.cpp's converter would write gives"
        " other ids"
    )
