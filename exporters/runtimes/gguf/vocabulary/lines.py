"""The lines of the parity gate: parity.txt, and lines with the model's own special and added tokens in them."""

from __future__ import annotations

import functools
import re
from importlib import resources

from .entries import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary

ESCAPE = re.compile(r"\\(?:u\{([0-9a-f]+)\}|(.))")
PLAIN = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "\\": "\\"}
TOKENS = 24
"""Special tokens that get lines of their own, and as many added ones; the others share lines."""


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
