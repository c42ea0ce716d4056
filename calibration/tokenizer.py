"""The model's own tokenizer, from tokenizer.json or vocab.txt, read by the `tokenizers` library alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..targets.errors import MissingExtra, SourceUnreadable, UsageError
from .model_files import config, read_json

MAX_BYTES = 128 << 20


@dataclass(frozen=True)
class Tokens:
    """One text as ids and token types, special tokens included, without padding."""

    ids: list[int]
    types: list[int]
    cut: bool
    """Whether the text was longer and was cut."""


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer and the id that it pads with."""

    backend: Any
    pad: int

    def encode(self, first: str, second: str | None, length: int) -> Tokens:
        """Tokens of a text or a pair of texts, cut to `length`; UsageError when not even the special ones fit."""
        try:
            self.backend.enable_truncation(length)
            found = self.backend.encode(first, second)
        except Exception as error:
            raise UsageError(f"the tokenizer refuses {length} tokens: {error}", where="--sequence") from None
        if len(found.ids) > length:
            # The library leaves a text whole when its special tokens alone are more than `length`.
            raise UsageError(f"{length} tokens have no room for the special ones", where="--sequence")
        return Tokens(list(found.ids), list(found.type_ids), bool(found.overflowing))


def load(model_dir: Path | None) -> Tokenizer:
    """The tokenizer in the model's folder.

    Raises UsageError when the folder has none, MissingExtra without the library, SourceUnreadable for a
    damaged file.
    """
    places = [model_dir / "tokenizer.json", model_dir / "vocab.txt"] if model_dir is not None else []
    path = next((path for path in places if path.is_file()), None)
    if model_dir is None or path is None:
        raise UsageError(
            "text needs the model's own tokenizer, and there is no tokenizer.json or vocab.txt beside the model",
            where="--calibration",
            mend="Put tokenizer.json into the model's folder, or give an .npz of token ids",
        )
    if path.stat().st_size > MAX_BYTES:
        raise SourceUnreadable(f"more than the {MAX_BYTES:,} bytes allowed", where=path.name)
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise MissingExtra(
            "text is tokenized with the `tokenizers` package, which is not installed",
            where="--calibration",
            mend="pip install 'modelport[torch]'",
        ) from None
    settings = read_json(model_dir / "tokenizer_config.json")
    try:
        backend = (
            tokenizers.Tokenizer.from_file(str(path))
            if path.name == "tokenizer.json"
            else _word_piece(tokenizers, path, settings)
        )
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library panics with a BaseException of its own
        raise SourceUnreadable(f"not a tokenizer: {error}", where=path.name) from None
    pad = _pad(backend, settings, config(model_dir))
    backend.no_padding()
    return Tokenizer(backend, pad)


def _word_piece(tokenizers: Any, path: Path, settings: dict[str, Any]) -> Any:
    """BERT's tokenizer from a bare vocabulary, with the switches of tokenizer_config.json."""
    strip = settings.get("strip_accents")
    return tokenizers.BertWordPieceTokenizer(
        str(path),
        lowercase=settings.get("do_lower_case", True) is not False,
        strip_accents=strip if isinstance(strip, bool) else None,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True) is not False,
    )._tokenizer


def _pad(backend: Any, settings: dict[str, Any], model: dict[str, Any]) -> int:
    """The padding id: the tokenizer's own, else its padding token's, else the model's, else 0."""
    if backend.padding is not None:
        return int(backend.padding["pad_id"])
    token = settings.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    found = backend.token_to_id(token if isinstance(token, str) else "[PAD]")
    if found is not None:
        return int(found)
    pad = model.get("pad_token_id")
    return pad if isinstance(pad, int) and pad >= 0 else 0
