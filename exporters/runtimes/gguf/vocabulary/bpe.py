"""Byte-level BPE: tokens, types and merges from tokenizer.json, or from vocab.json and merges.txt."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from .....calibration.language_tokenizer.files import Files
from .....calibration.language_tokenizer.tokens import added_vocabulary, base_tokens, merges, source
from .....targets.errors import SourceUnreadable
from .entries import CONTROL, NORMAL, USER_DEFINED, Vocabulary, looks_special, padded, require_distinct


def vocabulary(files: Files, decode: Callable[[int], str]) -> Vocabulary:
    """The vocabulary with as many ids as the model has, in the "gpt2" form.

    `decode` gives the text of one id by the model's own tokenizer; it is asked only for added tokens that
    a byte-level decoder would change.
    """
    base = base_tokens(files)
    added = added_vocabulary(files, base)
    highest = max([*base.values(), *(token.id for token in added.values())], default=-1)
    size = files.declared_size() or highest + 1
    if highest >= size:
        raise SourceUnreadable(
            f"is {size}, but {source(files)} has the id {highest}",
            where=files.place("config.json", "vocab_size"),
        )
    made = padded(size, None)
    made.kind = "gpt2"
    for text, number in base.items():
        made.tokens[number], made.types[number] = text, NORMAL
    for text, token in added.items():
        shown = text if token.normalized else _decoded(text, token.id, files, decode)
        control = token.special or looks_special(shown)
        made.tokens[token.id] = shown if control else shown.replace("▁", " ")
        made.types[token.id] = CONTROL if control else USER_DEFINED
    made.merges = merges(files)
    require_distinct(made.tokens, files, source(files))
    return made


def _decoded(text: str, number: int, files: Files, decode: Callable[[int], str]) -> str:
    """An added token's text after encoding and decoding, which the converter takes for tokens kept from normalizing."""
    decoder: dict[str, Any] = files.part("decoder")
    if decoder.get("type") != "ByteLevel" and files.tokenizer:
        return decode(number)
    table = byte_of()
    if text.isascii() or any(c not in table for c in text):
        return text  # no text of byte letters: the decoder leaves it
    return bytes(table[c] for c in text).decode("utf-8", "replace")


@cache
def byte_of() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for U+0100 onwards, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
