"""Lines on which llama.cpp cannot give a tokenizer's ids, told from those on which the vocabulary is wrong."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from .....calibration.language_tokenizer.reference import Reference
from .entries import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary
from .llama_vocabulary import LlamaVocabulary

NORMALIZER = (
    "llama.cpp does not apply the tokenizer's Unicode normalization; text that needs it gets other ids"
)
STRIPPED = "llama.cpp keeps the spaces beside added tokens that the model's tokenizer drops"
PREFIX = (
    "llama.cpp puts a space before text that follows a special token or begins with a space, where the model's"
    " tokenizer does not"
)
GRAPHEMES = "llama.cpp normalizes combining marks as SentencePiece does, the model's tokenizer.json by whole graphemes"
NAMES = "llama.cpp can read the names of special tokens as plain text, which the model's tokenizer never does"
MARK = "llama.cpp takes SentencePiece's mark for a space, written out in a text, for no space"


@dataclass(frozen=True)
class Difference:
    """One line that two tokenizers read differently."""

    line: str
    special: bool
    own: tuple[int, ...]
    got: tuple[int, ...]
    position: int = 0
    """How many lines come before it."""


def explain(
    difference: Difference, vocabulary: Vocabulary, reference: Reference, llama: LlamaVocabulary
) -> str | None:
    """The known limit of llama.cpp that is the whole of a difference, as a sentence; None where none is.

    Each is proved on the line itself: with that one thing taken away the two agree.
    """
    line, special, own = difference.line, difference.special, list(difference.own)
    # llama.cpp has no normalizers but BERT's (llama-vocab.cpp, normalizer_options).
    normal = reference.normalized(line)
    if normal != line and llama.encode(normal, special) == own:
        return NORMALIZER
    # A Unigram tokenizer.json has its control pieces among the others.
    if not special and vocabulary.kind == "t5":
        nameless = line
        for name in _found(line, vocabulary, CONTROL, UNKNOWN):
            nameless = nameless.replace(name, "a")
        if nameless != line and llama.encode(nameless, special) == reference.encode(nameless, special):
            return NAMES
    # The converter gives added tokens of spaces (Gemma's) as spaces, so their marks are not found in a text.
    spaced = line.replace("▁", " ")
    if (
        vocabulary.kind == "llama"
        and spaced != line
        and llama.encode(spaced, special) == reference.encode(spaced, special)
    ):
        return MARK
    # The tokenizers library applies SentencePiece's table to whole graphemes, SentencePiece and llama.cpp do not.
    bare = "".join(c for c in line if not unicodedata.category(c).startswith("M"))
    if (
        vocabulary.charsmap
        and bare != line
        and llama.encode(bare, special) == reference.encode(bare, special)
    ):
        return GRAPHEMES
    found = _found(line, vocabulary, *((CONTROL, USER_DEFINED) if special else (USER_DEFINED,)))
    # Of an added token's lstrip and rstrip, llama.cpp knows only a guess by the model's name.
    stripped = re.sub(r"\s*(" + "|".join(map(re.escape, found)) + r")\s*", r"\1", line) if found else line
    if stripped != line and llama.encode(stripped, special) == own == reference.encode(stripped, special):
        return STRIPPED
    if vocabulary.kind == "llama" and _only_spaces(list(difference.got), line, found, reference):
        return PREFIX
    return None


def _only_spaces(got: list[int], line: str, found: list[str], reference: Reference) -> bool:
    """Whether llama.cpp's ids are the model's own but for a space put before stretches of text.

    That is SentencePiece's old way, which llama.cpp keeps: each stretch of text between special tokens is
    tokenized as if it began the line, and even where it begins with a space. The first stretch of a line that
    does not begin with one must be read alike.
    """
    parts = re.split("(" + "|".join(map(re.escape, found)) + ")", line) if found else [line]
    ends = {0}
    for number, part in enumerate(parts):
        if not part:
            continue
        choices = [reference.encode(part, True)]
        if part not in found and (number > 0 or part.startswith(" ")):
            choices.append(reference.encode(" " + part, True))
        ends = {end + len(ids) for end in ends for ids in choices if got[end : end + len(ids)] == ids}
    return len(got) in ends


def _found(line: str, vocabulary: Vocabulary, *kinds: int) -> list[str]:
    """The tokens of some types that occur in a line, longest first."""
    pairs = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return sorted((text for text, kind in pairs if kind in kinds and text in line), key=len, reverse=True)
