"""Lines on which llama.cpp cannot give a tokenizer's ids, told from those on which the vocabulary is wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .entries import CONTROL, USER_DEFINED, Vocabulary
from .llama_vocabulary import LlamaVocabulary
from .reference import Reference

NORMALIZER = (
    "llama.cpp does not apply the tokenizer's Unicode normalization; text that needs it gets other ids"
)
STRIPPED = "llama.cpp keeps the spaces beside added tokens that the model's tokenizer drops"
PREFIX = "llama.cpp puts a space before text that follows a special token, the model's tokenizer only before the first"


@dataclass(frozen=True)
class Difference:
    """One line that two tokenizers read differently."""

    line: str
    special: bool
    own: tuple[int, ...]
    got: tuple[int, ...]


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
    found = _found(line, vocabulary, special)
    if not found:
        return None
    # Of an added token's lstrip and rstrip, llama.cpp knows only a guess by the model's name.
    stripped = re.sub(r"\s*(" + "|".join(map(re.escape, found)) + r")\s*", r"\1", line)
    if stripped != line and llama.encode(stripped, special) == own == reference.encode(stripped, special):
        return STRIPPED
    # SentencePiece's old way, kept in llama.cpp: each stretch of text is tokenized as if it began the line.
    parts = [part for part in re.split("(" + "|".join(map(re.escape, found)) + ")", line) if part]
    alone = [number for part in parts for number in reference.encode(part, special)]
    if vocabulary.kind == "llama" and alone == list(difference.got):
        return PREFIX
    return None


def _found(line: str, vocabulary: Vocabulary, special: bool) -> list[str]:
    """The added tokens in a line, longest first."""
    kinds = (CONTROL, USER_DEFINED) if special else (USER_DEFINED,)
    pairs = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return sorted((text for text, kind in pairs if kind in kinds and text in line), key=len, reverse=True)
