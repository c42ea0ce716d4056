"""The tokenizer files of a model folder, each read once, bounded, with errors that name the file and the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from ...targets.errors import SourceUnreadable, Unsupported

LARGEST = 1 << 28
"""Bytes of the largest tokenizer file that is read; the largest known, of 262 144 tokens, has 34 MB."""
MOST_TOKENS = 1 << 22
"""Ids of the largest vocabulary that is written; the largest known has 262 208."""

DEFAULT_SIZES = {
    "gemma2": 256000,
    "gemma3_text": 262208,
    "gpt2": 50257,
    "llama": 32000,
    "mistral": 32000,
    "phi3": 32064,
    "qwen2": 151936,
    "qwen3": 151936,
}
"""vocab_size by model_type where config.json leaves it out: the defaults of transformers' config classes."""


class Files:
    """What a model folder says about its tokenizer. Attributes are read at first use.

    Raises SourceUnreadable for a file that is damaged, too large or not a JSON object.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        """What was left out or changed on the way, for the report."""

    def has(self, name: str) -> bool:
        """Whether the folder has this file."""
        return (self.folder / name).is_file()

    def note(self, sentence: str) -> None:
        """Remember a sentence for the report, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def read(self, name: str, largest: int = LARGEST) -> bytes:
        """The bytes of one file."""
        path = self.folder / name
        try:
            size = path.stat().st_size
            if size > largest:
                raise SourceUnreadable(
                    f"has {size} bytes, more than the {largest} that are read", where=str(path)
                )
            return path.read_bytes()
        except OSError as error:
            raise SourceUnreadable(error.strerror or str(error), where=str(path)) from error

    def text(self, name: str) -> str:
        """One UTF-8 text file, line ends as Python's text files give them."""
        try:
            text = self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise SourceUnreadable(f"is not UTF-8: {error}", where=self.place(name)) from error
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def json(self, name: str) -> dict[str, Any]:
        """One JSON object; empty where the folder has no such file."""
        if not self.has(name):
            return {}
        try:
            value = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise SourceUnreadable(f"is not readable JSON: {error}", where=self.place(name)) from error
        if not isinstance(value, dict):
            raise SourceUnreadable("is not a JSON object", where=self.place(name))
        return value

    def place(self, name: str, field: str = "") -> str:
        """Where something is, for an error: the file, and the field in it."""
        path = str(self.folder / name)
        return f"{path}: {field}" if field else path

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json as it is."""
        return self.json("config.json")

    @cached_property
    def model(self) -> dict[str, Any]:
        """config.json with what a multimodal model's text_config says on top."""
        inner = self.config.get("text_config")
        return {**self.config, **inner} if isinstance(inner, dict) else self.config

    @cached_property
    def tokenizer(self) -> dict[str, Any]:
        """tokenizer.json, empty where there is none."""
        return self.json("tokenizer.json")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """tokenizer_config.json, empty where there is none."""
        return self.json("tokenizer_config.json")

    @property
    def architecture(self) -> str:
        """The first of config.json's architectures."""
        listed = self.config.get("architectures")
        return str(listed[0]) if isinstance(listed, list) and listed else ""

    @property
    def algorithm(self) -> str:
        """tokenizer.json's model type: BPE, Unigram, WordPiece or WordLevel; empty without the file."""
        kind = self.part("model").get("type")
        if kind is None and "merges" in self.part("model"):
            return "BPE"  # files of early releases leave the type out
        return str(kind or "")

    def part(self, name: str) -> dict[str, Any]:
        """One object of tokenizer.json, empty where it is null or missing."""
        value = self.tokenizer.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise SourceUnreadable("is not an object", where=self.place("tokenizer.json", name))
        return value

    def require_tokenizer(self) -> None:
        """Refuse a folder without a tokenizer that llama.cpp's language models have a form for.

        Raises Unsupported, or SourceUnreadable for a tokenizer.json without a model.
        """
        if self.has("tokenizer.json"):
            if not self.part("model"):
                raise SourceUnreadable("is missing or empty", where=self.place("tokenizer.json", "model"))
            if self.algorithm not in ("BPE", "Unigram"):
                raise Unsupported(
                    f"tokenizers of type {self.algorithm or 'unknown'} have no form in llama.cpp's language models;"
                    " BPE and Unigram have",
                    where=self.place("tokenizer.json", "model.type"),
                )
        elif not self.has("tokenizer.model") and not (self.has("vocab.json") and self.has("merges.txt")):
            raise SourceUnreadable(
                "has no tokenizer: neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt",
                where=str(self.folder),
                mend="Load the tokenizer with transformers and save it there"
                if self.has("tekken.json")
                else "",
            )

    def declared_size(self) -> int | None:
        """How many ids the model's embedding has by config.json; None where it does not say.

        Raises SourceUnreadable for a size that cannot be one.
        """
        size = self.model.get("vocab_size", DEFAULT_SIZES.get(str(self.model.get("model_type"))))
        if size is None:
            return None
        if not is_id(size) or not 0 < size <= MOST_TOKENS:
            raise SourceUnreadable(
                f"is {size!r}, not a number of tokens up to {MOST_TOKENS}",
                where=self.place("config.json", "vocab_size"),
            )
        return size


def is_id(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number, as ids are (true and false are none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def added_tokens(files: Files) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """tokenizer.json's added tokens: (text, id, the whole entry), checked field by field."""
    listed = files.tokenizer.get("added_tokens") or []
    if not isinstance(listed, list):
        raise SourceUnreadable("is not a list", where=files.place("tokenizer.json", "added_tokens"))
    for number, token in enumerate(listed):
        where = files.place("tokenizer.json", f"added_tokens[{number}]")
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise SourceUnreadable("has no text in its field content", where=where)
        if not is_id(token.get("id")) or token["id"] < 0:
            raise SourceUnreadable(f"has no id: {token.get('id')!r}", where=where)
        yield token["content"], token["id"], token


def listed_tokens(files: Files) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """tokenizer_config.json's added_tokens_decoder: (text, id, the whole entry), in the file's order."""
    decoder = files.settings.get("added_tokens_decoder") or {}
    field = "added_tokens_decoder"
    if not isinstance(decoder, dict):
        raise SourceUnreadable("is not an object", where=files.place("tokenizer_config.json", field))
    for key, token in decoder.items():
        where = files.place("tokenizer_config.json", f"{field}[{key!r}]")
        if not key.isascii() or not key.isdigit():
            raise SourceUnreadable("is not an id", where=where)
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise SourceUnreadable("has no text in its field content", where=where)
        yield token["content"], int(key), token


def content(value: object) -> str | None:
    """The text of a token that a config names: a string, or an object with the field content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
