"""The lines of the parity gate: parity.txt, and lines with the model's own special and added tokens in them."""

from __future__ import annotations

import functools
import itertools
import re
from importlib import resources

from .bpe import byte_of
from .entries import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary

ESCAPE = re.compile(r"\\(?:u\{([0-9a-f]+)\}|(.))")
PLAIN = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "\\": "\\"}
TOKENS = 24
"""Special tokens that get lines of their own, and as many added ones; the others share lines."""
EACH = 8
"""Tokens taken for each of CROSSING."""
SPREAD, IN_A_LINE = 512, 8
"""Tokens taken evenly from the whole vocabulary, and how many stand in one line."""

CROSSING = tuple(
    re.compile("\0([^\0\ufffd]*" + pattern + "[^\0\ufffd]*)(?=\0)")
    for pattern in (
        r"[0-9]{2}",
        r"[0-9]{4}",
        r"[a-z][A-Z]",
        r"[A-Z][a-z]",
        r"[A-Za-z][0-9]",
        r"[0-9][A-Za-z]",
        r"[A-Za-z]['’]",
        r"['’][A-Za-z]",
        r"[A-Za-z][-_./:(]",
        r"[-_./:(\"<#@$][A-Za-z]",
        r" [^\sA-Za-z0-9]",
        r"[!-/:-@]{2}",
        r"[!-/:-@]\n",
        r"\n[ \t]",
        r"[ \t]\n",
        r"\n\n",
        r" {2}",
        r"\t",
        r"\r",
        r"[\u0300-\u036f\u0900-\u0dff]{2}",
        r"[\u0400-\u04ff]{2}",
        r"[\u0600-\u06ff]{2}",
        r"[\u0e00-\u0e7f]{2}",
        r"[\u3040-\u30ff]{2}",
        r"[\u4e00-\u9fff]{2}",
        r"[\uac00-\ud7af]{2}",
        r"[。，、！？：；]",
    )
)
"""Kinds of text in one token that some pre-tokenizer would cut: digits, case, apostrophes, marks, line ends."""


@functools.cache
def fixed() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines of parity.txt: those that tell pre-tokenizers apart, and the others."""
    first: list[str] = []
    others: list[str] = []
    comments = 0
    text = resources.files(__package__ or "").joinpath("parity.txt").read_text(encoding="utf-8")
    for line in text.split("\n"):
        if line.startswith("## "):
            comments += 1
        elif line:
            # Three comments open the file; the next one ends its first part.
            (first if comments <= 3 else others).append(ESCAPE.sub(_unescaped, line))
    return tuple(first), tuple(others)


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else PLAIN[match[2]]


def with_tokens(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Lines with the vocabulary's special and added tokens alone, within words, between spaces and in a row."""
    lines: list[str] = []
    for kinds in ((CONTROL, UNKNOWN), (USER_DEFINED,)):
        texts = [
            text
            for text, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
            if kind in kinds and text
        ]
        # The first and the last: those that a model was trained with, and those that were added to it.
        shown = texts if len(texts) <= TOKENS else [*texts[: TOKENS // 2], *texts[-TOKENS // 2 :]]
        for text in shown:
            lines += [text, f"a{text}b", f"Hello {text} world", f"{text}\n{text}"]
        if len(shown) > 1:
            lines.append("".join(shown))
        rest = [text for text in texts if text not in set(shown)]
        lines += ["x".join(rest[start : start + 64]) for start in range(0, min(len(rest), 2048), 64)]
    return tuple(dict.fromkeys(lines))


def from_tokens(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Lines made of the vocabulary's own tokens: those that only one way of splitting leaves whole, and a sample.

    A small vocabulary hardly tells splits apart by text of anyone's choice, but what its tokenizer was trained to
    leave whole is in its tokens.
    """
    texts = _texts(vocabulary)
    joined = "\0" + "\0".join(texts) + "\0"
    crossing = [match[1] for kind in CROSSING for match in itertools.islice(kind.finditer(joined), EACH)]
    whole = [text for text in texts if text and "\ufffd" not in text]
    sample = whole[:: max(1, len(whole) // SPREAD)][:SPREAD]
    spread = [sample[start : start + IN_A_LINE] for start in range(0, len(sample), IN_A_LINE)]
    lines = [text for each in dict.fromkeys(crossing) for text in (each, f"x{each}")]
    lines += [glue.join(some) for some in spread for glue in ("", " ")]
    return tuple(dict.fromkeys(lines))


def _texts(vocabulary: Vocabulary) -> list[str]:
    """What the plain tokens stand for in a text; U+FFFD where one is no whole characters."""
    pairs = zip(vocabulary.tokens, vocabulary.types, strict=True)
    plain = [text for text, kind in pairs if kind == NORMAL and "\0" not in text]
    if vocabulary.kind != "gpt2":
        return [text.replace("▁", " ") for text in plain]
    table = {ord(letter): byte for letter, byte in byte_of().items()}
    # The letter of a zero byte is dropped: zeros stand between the tokens here.
    table[ord("Ā")] = None  # type: ignore[assignment]
    coded = "\0".join(plain).translate(table).encode("latin-1", "replace")
    return coded.decode("utf-8", "replace").split("\0")
