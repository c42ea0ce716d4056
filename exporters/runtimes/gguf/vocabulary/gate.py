"""The parity gate: the model's own tokenizer and llama.cpp must give the same ids before a weight is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .....targets.errors import ConversionFailed
from . import lines, pretokenizers
from .bpe import byte_of
from .differences import Difference, explain
from .entries import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary
from .files import Files
from .llama_vocabulary import LlamaVocabulary, pack, vocabulary_entries
from .reference import Reference

if TYPE_CHECKING:
    from gguf import GGUFWriter

PRE = "tokenizer.ggml.pre"
SHOWN = 24
"""Ids of a line that an error shows."""


@dataclass(frozen=True)
class Passed:
    """What the gate found: the pre-tokenizer's name, how many lines agreed, and what llama.cpp cannot do."""

    pre: str
    lines: int
    notes: tuple[str, ...]


class Gate:
    """The lines for one vocabulary with the ids that its own tokenizer gives them."""

    def __init__(self, files: Files, vocabulary: Vocabulary, reference: Reference) -> None:
        self.files = files
        self.vocabulary = vocabulary
        self.reference = reference
        kinds = zip(vocabulary.tokens, vocabulary.types, strict=True)
        reference.mark_special({text for text, kind in kinds if kind == CONTROL})
        first, others = lines.fixed()
        self.first = first
        self.lines = (*first, *others, *lines.with_tokens(vocabulary))
        self.expected = {special: reference.encode_lines(self.lines, special) for special in (True, False)}

    def check(self, writer: GGUFWriter) -> tuple[Difference | None, tuple[str, ...]]:
        """The first line that differs over the writer's entries, or None; and the limits of llama.cpp that were met."""
        notes: dict[str, str] = {}
        with LlamaVocabulary(pack(vocabulary_entries(writer))) as llama:
            for special, expected in self.expected.items():
                for line, own in zip(self.lines, expected, strict=True):
                    got = llama.encode(line, special)
                    if got == own:
                        continue
                    difference = Difference(line, special, tuple(own), tuple(got))
                    limit = explain(difference, self.vocabulary, self.reference, llama)
                    if limit is None:
                        return difference, ()
                    notes.setdefault(limit, f"{limit}; first seen in {line!r}")
            if frame := self._frame(llama):
                notes["frame"] = frame
        return None, tuple(notes.values())

    def _frame(self, llama: LlamaVocabulary) -> str:
        text = "Hello world"
        own = self.reference.framed(text)
        if own is None or not llama.frames():
            return ""
        got = llama.encode(text, True, framed=True)
        if got == own:
            return ""
        return f"llama.cpp puts other ids around a text than the model's tokenizer: {got} for {text!r}, not {own}"

    def agreeing(self, names: Iterable[str]) -> dict[str, int]:
        """How many of the first lines agree under each pre-tokenizer, over a vocabulary cut down to these lines.

        A token can come up only where its text occurs in a line, so the cut changes no result, and a load
        takes a millisecond instead of a third of a second.
        """
        small, ids = reduced(self.vocabulary, self.first)
        expected = self.expected[False][: len(self.first)]
        found: dict[str, int] = {}
        for name in names:
            entries = [
                ("general.architecture", "llama", 8),
                ("tokenizer.ggml.model", "gpt2", 8),
                (PRE, name, 8),
                ("tokenizer.ggml.tokens", small.tokens, 9),
                ("tokenizer.ggml.token_type", small.types, 9),
                ("tokenizer.ggml.merges", small.merges or ["a b"], 9),
            ]
            with LlamaVocabulary(pack(entries)) as llama:
                got = [[ids[number] for number in each] for each in llama.encode_lines(self.first, False)]
            found[name] = sum(a == b for a, b in zip(got, expected, strict=True))
        return found


def find_pre(gate: Gate, writer: GGUFWriter, hints: Sequence[str]) -> Passed:
    """Find the pre-tokenizer of a BPE vocabulary: set in the writer, the first name under which every line agrees.

    Raises ConversionFailed where there is none, with the best name and the first line that differs under it.
    """
    set_pre(writer, hints[0])
    difference, notes = gate.check(writer)
    if difference is None:
        return Passed(hints[0], len(gate.lines), notes)
    names = pretokenizers.known()
    order = [*(name for name in hints if name in names), *(name for name in names if name not in hints)]
    agreeing = gate.agreeing(order)
    best, first = hints[0], difference
    most = agreeing.get(best, -1)
    for name in order:
        if name == hints[0]:
            continue
        if agreeing[name] == len(gate.first):
            set_pre(writer, name)
            difference, notes = gate.check(writer)
            if difference is None:
                return Passed(name, len(gate.lines), notes)
    name = max(order, key=lambda each: agreeing[each])
    if agreeing[name] > most:
        set_pre(writer, name)
        difference, _ = gate.check(writer)
        best, first = name, difference or first
    share = f"{agreeing.get(best, 0)} of {len(gate.first)}"
    raise _refused(
        gate,
        first,
        f"under none of llama.cpp's {len(names)} pre-tokenizers; the best is {best} ({share} lines)",
    )


def set_pre(writer: GGUFWriter, name: str) -> None:
    """Put the name into the writer, in its place among the entries."""
    writer.kv_data[0][PRE].value = name


def require_agreement(gate: Gate, writer: GGUFWriter, otherwise: Callable[[], str] | None = None) -> Passed:
    """Check a vocabulary that has no pre-tokenizer. `otherwise` changes the writer for a second try, and says how."""
    difference, notes = gate.check(writer)
    if difference is not None and otherwise is not None:
        changed = otherwise()
        difference, notes = gate.check(writer)
        notes = (changed, *notes)
    if difference is not None:
        raise _refused(gate, difference, "")
    return Passed(str(writer.kv_data[0][PRE].value), len(gate.lines), notes)


def _refused(gate: Gate, first: Difference, how: str) -> ConversionFailed:
    def shown(ids: Sequence[int]) -> str:
        return f"[{', '.join(map(str, ids[:SHOWN]))}{', ...' if len(ids) > SHOWN else ''}]"

    reading = "special tokens read" if first.special else "special tokens as text"
    return ConversionFailed(
        f"llama.cpp and the model's tokenizer do not agree{' ' + how if how else ''}: {first.line!r} ({reading}) is"
        f" {shown(first.own)} for the model, {shown(first.got)} in llama.cpp",
        where=str(gate.files.folder),
        mend="Nothing was written. Check that the tokenizer files are the model's own, or report it to llama.cpp",
    )


def reduced(vocabulary: Vocabulary, texts: Sequence[str]) -> tuple[Vocabulary, list[int]]:
    """The tokens and merges that can occur in some texts, and the id in the whole vocabulary of each that is left."""
    letters = {byte: letter for letter, byte in byte_of().items()}
    coded = ["".join(letters[byte] for byte in text.encode("utf-8")) for text in texts]
    # Some of llama.cpp's pre-tokenizers take the text itself instead of letters for its bytes.
    forms = {*coded, *texts, *(text.replace(" ", "▁") for text in texts)}
    longest = max(map(len, forms))
    wanted: set[str] = set(letters.values())
    limit = min(longest, max(map(len, vocabulary.tokens)), 64)
    for form in forms:
        for begin in range(len(form)):
            wanted.update(form[begin:end] for end in range(begin + 1, min(begin + limit, len(form)) + 1))
    made = Vocabulary("gpt2", [], [])
    ids: list[int] = []
    for number, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if kind in (NORMAL, CONTROL, UNKNOWN, USER_DEFINED) and text in wanted:
            made.tokens.append(text)
            made.types.append(kind)
            ids.append(number)
    made.merges = [merge for merge in vocabulary.merges if merge.replace(" ", "", 1) in wanted]
    return made, ids
