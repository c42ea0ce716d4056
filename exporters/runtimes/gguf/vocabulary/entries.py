"""What a vocabulary is in a GGUF file: tokens with their types and scores, and the order of their entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .....calibration.language_tokenizer.files import Files
from .....targets.errors import SourceUnreadable

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Token types of the format (llama.h, llama_token_type)."""

TOKENS, TYPES, SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"

SPECIAL_TEXTS = frozenset(("<pad>", "<mask>", "<2mass>", "[@BOS@]"))
SPECIAL_MARKS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass
class Vocabulary:
    """One vocabulary. `kind` is llama.cpp's name of the algorithm: "gpt2" (BPE), "llama" or "t5" (SentencePiece)."""

    kind: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: Sequence[str] = ()
    flags: dict[str, bool] = field(default_factory=dict)
    """Entries that follow the types: add_space_prefix, remove_extra_whitespaces."""
    charsmap: bytes = b""
    """SentencePiece's normalizer, compiled."""


def padded(size: int, score: float | None) -> Vocabulary:
    """A vocabulary of `size` ids that no token has yet: "[PAD0]", "[PAD1]"..., of type unused."""
    tokens = [f"[PAD{number}]" for number in range(size)]
    scores = None if score is None else [score] * size
    return Vocabulary("", tokens, [UNUSED] * size, scores)


def write(vocabulary: Vocabulary, pre: str, writer: GGUFWriter) -> None:
    """Add the vocabulary's entries in the converter's order."""
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary.tokens)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    for name, value in vocabulary.flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    if vocabulary.charsmap:
        writer.add_precompiled_charsmap(vocabulary.charsmap)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)


def looks_special(text: str) -> bool:
    """Whether a token is a control token by its looks: some models do not mark theirs."""
    return text in SPECIAL_TEXTS or any(text.startswith(a) and text.endswith(b) for a, b in SPECIAL_MARKS)


def require_distinct(tokens: Iterable[str], files: Files, file: str) -> None:
    """Refuse a text that two ids have: llama.cpp aborts on it. Also text that is not Unicode."""
    ids: dict[str, int] = {}
    for number, text in enumerate(tokens):
        # llama.cpp gives a token without text this one.
        shown = text or f"[EMPTY_{number}]"
        if shown in ids:
            raise SourceUnreadable(
                f"ids {ids[shown]} and {number} are both {shown!r}", where=files.place(file)
            )
        ids[shown] = number
    try:
        "".join(ids).encode("utf-8")
    except UnicodeEncodeError as error:
        raise SourceUnreadable(
            f"a token is not Unicode text: {error.reason}", where=files.place(file)
        ) from error
