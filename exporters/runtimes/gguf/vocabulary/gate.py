"""The parity gate: the model's own tokenizer and llama.cpp must give the same ids before a weight is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .....calibration.language_tokenizer.files import Files
from .....calibration.language_tokenizer.reference import Reference
from .....targets.errors import ConversionFailed, Unsupported
from . import lines, pretokenizers, trial
from .bpe import byte_of
from .differences import Difference, explain
from .entries import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary
from .llama_vocabulary import LlamaVocabulary, pack, vocabulary_entries

if TYPE_CHECKING:
    from gguf import GGUFWriter

PRE = "tokenizer.ggml.pre"
TRIES = 3
"""Pre-tokenizers that agree on parity.txt, tried over the whole vocabulary."""
SHOWN = 16
"""Ids of a line that an error shows, beginning shortly before the first that differs."""


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
        self.reference = reference
        self.first, self.others = lines.fixed()
        self.take(vocabulary)

    def take(self, vocabulary: Vocabulary) -> None:
        """Hold the tokenizer to this vocabulary from now on."""
        require_bytes(self.files, vocabulary)
        self.vocabulary = vocabulary
        own = (*lines.from_tokens(vocabulary), *lines.with_tokens(vocabulary))
        self.lines = tuple(dict.fromkeys((*self.first, *self.others, *own)))
        self.expected: dict[bool, list[list[int]]] = {}

    def _expect(self, llama: LlamaVocabulary) -> None:
        """Encode the lines by the model's tokenizer, once it is known which tokens llama.cpp takes for special.

        It marks more than the model's files do: the converter by their looks, and llama.cpp by their names.
        """
        numbers = (n for n, kind in enumerate(self.vocabulary.types) if kind in (CONTROL, USER_DEFINED))
        self.reference.mark_special({self.vocabulary.tokens[n] for n in numbers if llama.is_control(n)})
        self.expected = {
            special: self.reference.encode_lines(self.lines, special) for special in (True, False)
        }

    def check(self, writer: GGUFWriter) -> tuple[Difference | None, tuple[str, ...]]:
        """The first line that differs over the writer's entries, or None; and the limits of llama.cpp that were met."""
        notes: dict[str, str] = {}
        with LlamaVocabulary(pack(vocabulary_entries(writer))) as llama:
            if not self.expected:
                self._expect(llama)
            for special, expected in self.expected.items():
                for position, (line, own) in enumerate(zip(self.lines, expected, strict=True)):
                    got = llama.encode(line, special)
                    if got == own:
                        continue
                    difference = Difference(line, special, tuple(own), tuple(got), position)
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

    def agreeing(self, names: Sequence[str], *, short: bool) -> tuple[str, ...]:
        """The names under which every line of parity.txt agrees (`short`: of its first part), the likeliest first.

        If there is none, the one under which most do. A token can come up only where its text occurs in a line,
        so a vocabulary cut down to the lines gives the same ids, and loads in a millisecond.
        """
        # Text that llama.cpp would have to normalize differs under every name.
        wanted = self.first if short else (*self.first, *self.others)
        texts = [line for line in wanted if self.reference.normalized(line) == line]
        small, ids = reduced(self.vocabulary, texts)
        own = {number: position for position, number in enumerate(ids)}
        # An id that the cut vocabulary lacks can be no result of it.
        expected = [
            [own.get(number, -1) for number in each] for each in self.reference.encode_lines(texts, False)
        ]
        found = trial.agreeing(small, texts, expected, names)
        most = max(found.values(), default=0)
        best = tuple(name for name in names if found[name] == most)
        return best if most == len(texts) else best[:1]


def require_bytes(files: Files, vocabulary: Vocabulary) -> None:
    """Refuse SentencePiece BPE without a token for each byte: text that it lacks would end llama.cpp's process."""
    if vocabulary.kind != "llama":
        return
    tokens = set(vocabulary.tokens)
    lacking = [
        byte
        for byte in range(256)
        if f"<0x{byte:02X}>" not in tokens and (byte > 127 or chr(byte) not in tokens)
    ]
    if lacking:
        raise Unsupported(
            f"has no token for the byte 0x{lacking[0]:02X}, and llama.cpp ends on text that needs it",
            where=files.place("tokenizer.model" if files.has("tokenizer.model") else "tokenizer.json"),
            mend="Train the tokenizer with byte_fallback",
        )


def find_pre(gate: Gate, writer: GGUFWriter, hints: Sequence[str]) -> Passed:
    """Find the pre-tokenizer of a BPE vocabulary: set in the writer, the first name under which every line agrees.

    Raises ConversionFailed where there is none, with the best name and the first line that differs under it.
    """
    set_pre(writer, hints[0])
    difference, notes = gate.check(writer)
    if difference is None:
        return Passed(hints[0], len(gate.lines), notes)
    names = pretokenizers.known()
    likely = [*(name for name in hints if name in names), *(name for name in names if name not in hints)]
    for short in (True, False):
        likely = list(gate.agreeing(likely, short=short))
    first, best = difference, hints[0]
    # Those that are left split parity.txt alike, so if some of them fail on special tokens, all do.
    for name in likely[:TRIES]:
        set_pre(writer, name)
        difference, notes = gate.check(writer)
        if difference is None:
            return Passed(name, len(gate.lines), notes)
        if best not in likely:
            first, best = difference, name
    raise _refused(gate, first, f"under any of llama.cpp's {len(names)} pre-tokenizers; the best is {best}")


def set_pre(writer: GGUFWriter, name: str) -> None:
    """Put the name into the writer, in its place among the entries."""
    writer.kv_data[0][PRE].value = name


def require_agreement(gate: Gate, writer: GGUFWriter, others: Iterable[Callable[[], str]] = ()) -> Passed:
    """Check a vocabulary that has no pre-tokenizer.

    Each of `others` changes the writer's entries for another try, on top of those before it, and says how:
    where the converter's entries do not give the ids that the model's own files do.
    """
    difference, notes = gate.check(writer)
    furthest = difference
    changes: list[str] = []
    for change in others:
        if difference is None:
            break
        changes.append(change())
        difference, notes = gate.check(writer)
        if difference and furthest and difference.position > furthest.position:
            furthest = difference
    if difference is not None:
        raise _refused(gate, furthest or difference, "")
    return Passed(str(writer.kv_data[0][PRE].value), len(gate.lines), (*filter(None, changes), *notes))


def _refused(gate: Gate, first: Difference, how: str) -> ConversionFailed:
    pairs = zip(first.own, first.got, strict=False)
    shorter = min(len(first.own), len(first.got))
    at = next((n for n, (own, got) in enumerate(pairs) if own != got), shorter)
    start = max(0, at - 4)

    def shown(ids: Sequence[int]) -> str:
        part = [str(number) for number in ids[start : start + SHOWN]]
        return f"[{', '.join([*(['...'] if start else []), *part, *(['...'] if len(ids) > start + SHOWN else [])])}]"

    reading = "special tokens read" if first.special else "special tokens as text"
    return ConversionFailed(
        f"llama.cpp and the model's tokenizer do not agree{' ' + how if how else ''}: {first.line!r} ({reading})"
        f" is {shown(first.own)} for the model, {shown(first.got)} in llama.cpp, the first difference at id {at}",
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
