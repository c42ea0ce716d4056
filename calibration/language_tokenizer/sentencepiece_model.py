"""The sentencepiece package's processor over a model folder's tokenizer.model."""

from __future__ import annotations

from typing import Any

from ...targets.errors import MissingExtra, SourceUnreadable
from .files import MOST_TOKENS, Files

MODEL = "tokenizer.model"


def processor(files: Files) -> Any:
    """The sentencepiece package's processor over tokenizer.model.

    Raises MissingExtra where the package is not installed, SourceUnreadable for a damaged file.
    """
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        raise MissingExtra("sentencepiece is not installed", mend="pip install sentencepiece") from error
    made = SentencePieceProcessor()
    try:
        made.LoadFromSerializedProto(files.read(MODEL))
    except (RuntimeError, TypeError, ValueError) as error:
        raise SourceUnreadable("is not a SentencePiece model", where=files.place(MODEL)) from error
    if not 0 < made.vocab_size() <= MOST_TOKENS:
        raise SourceUnreadable(f"has {made.vocab_size()} tokens", where=files.place(MODEL))
    return made
