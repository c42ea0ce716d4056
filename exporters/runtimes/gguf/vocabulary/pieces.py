"""SentencePiece: tokens, scores and types from tokenizer.model, or from a tokenizer.json that was made of one."""

from __future__ import annotations

import re
from typing import Any

from .....calibration.language_tokenizer.files import Files, added_tokens, is_id, listed_tokens
from .....calibration.language_tokenizer.sentencepiece_model import MODEL
from .....calibration.language_tokenizer.tokens import added_vocabulary, base_tokens, merges, special_texts
from .....targets.errors import SourceUnreadable
from .entries import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    looks_special,
    padded,
    require_distinct,
)

ADDED_SCORE, PADDED_SCORE = -1000.0, -10000.0
HEX_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


def vocabulary(files: Files, model: Any) -> Vocabulary:
    """The pieces of tokenizer.model with the added tokens on top, as many ids as the model has."""
    size = _size(files, model)
    made = _pieces(model, size)
    _added_file(files, made)
    for text, number, raw in listed_tokens(files):
        special = bool(raw.get("special")) or looks_special(text)
        _put(
            made,
            number,
            text if special else text.replace("▁", " "),
            CONTROL if special else USER_DEFINED,
            files,
        )
    require_distinct(made.tokens, files, MODEL)
    return made


def phi3_vocabulary(files: Files, model: Any) -> Vocabulary:
    """The same for Phi-3, whose converter takes added tokens as they are, and tokenizer.json's as well."""
    size = _size(files, model)
    made = _pieces(model, size)
    _added_file(files, made)
    for text, number, raw in [*listed_tokens(files), *added_tokens(files)]:
        _put(made, number, text, CONTROL if raw.get("special") else USER_DEFINED, files)
    require_distinct(made.tokens, files, MODEL)
    return made


def json_vocabulary(files: Files, *, mended: bool) -> Vocabulary:
    """A SentencePiece-like BPE that has only tokenizer.json.

    The converter gives every token the same score, with which llama.cpp merges in another order than the
    tokenizer does, and only the tokens that the config names a type of their own. `mended` gives the scores
    that SentencePiece's own files have (the earlier a token is merged, the higher), and added tokens theirs.
    """
    base = base_tokens(files)
    added = added_vocabulary(files, base)
    special = {*special_texts(files), *_usual(files)}
    behind = {text: token for text, token in added.items() if token.id >= len(base)}
    highest = max([*base.values(), *(token.id for token in behind.values())])
    declared = files.declared_size() or 0
    if 0 < declared <= highest:
        raise SourceUnreadable(
            f"is {declared}, but tokenizer.json has the id {highest}",
            where=files.place("config.json", "vocab_size"),
        )
    made = padded(max(highest + 1, declared), ADDED_SCORE)
    made.kind = "llama"
    for text, number in base.items():
        is_byte = HEX_BYTE.fullmatch(text)
        made.tokens[number] = text
        made.types[number] = BYTE if is_byte else CONTROL if text in special else NORMAL
    for text, token in behind.items():
        made.tokens[token.id] = text
        made.types[token.id] = CONTROL if text in special else USER_DEFINED
    if mended:
        made.scores = _ranked(files, base, len(made.tokens))
        for text, token in added.items():
            control = token.special or looks_special(text)
            made.tokens[token.id] = text if control else text.replace("▁", " ")
            made.types[token.id] = CONTROL if control else USER_DEFINED
    require_distinct(made.tokens, files, "tokenizer.json")
    return made


def unigram_vocabulary(files: Files, model: Any | None) -> Vocabulary:
    """A Unigram vocabulary in llama.cpp's "t5" form, from tokenizer.model or tokenizer.json, with its normalizer."""
    from . import unigram

    if model is not None:
        made = _pieces(model, _size(files, model))
        _added_file(files, made)
        unigram.by_proto(made, files.read(MODEL))
    else:
        made = unigram.by_json(files)
    require_distinct(made.tokens, files, MODEL if model is not None else "tokenizer.json")
    return made


def _usual(files: Files) -> tuple[str, ...]:
    """The special tokens of a LlamaTokenizer whose config does not name them."""
    return tuple(
        text
        for key, text in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))
        if key not in files.settings
    )


def _ranked(files: Files, base: dict[str, int], size: int) -> list[float]:
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges(files)):
        ranks.setdefault(merge.replace(" ", "", 1) if " " in merge else merge, rank)
    scores = [-float(len(ranks) + 1)] * size
    for text, number in base.items():
        if text in ranks:
            scores[number] = -float(ranks[text])
    return scores


def _size(files: Files, model: Any) -> int:
    size = files.declared_size() or int(model.vocab_size())
    if model.vocab_size() > size:
        raise SourceUnreadable(
            f"is {size}, but {MODEL} has {model.vocab_size()} tokens",
            where=files.place("config.json", "vocab_size"),
        )
    return size


def _pieces(model: Any, size: int) -> Vocabulary:
    made = padded(size, PADDED_SCORE)
    made.kind = "llama"
    assert made.scores is not None
    count = model.vocab_size()
    numbers = list(range(count))
    made.tokens[:count] = model.IdToPiece(numbers)
    made.scores[:count] = model.GetScore(numbers)
    types = [NORMAL] * count
    # The first that holds counts, so the later ones are put first.
    for kind, having in (
        (BYTE, model.IsByte),
        (UNUSED, model.IsUnused),
        (CONTROL, model.IsControl),
        (UNKNOWN, model.IsUnknown),
    ):
        for number, has in enumerate(having(numbers)):
            if has:
                types[number] = kind
    made.types[:count] = types
    return made


def _added_file(files: Files, made: Vocabulary) -> None:
    for text, number in files.json("added_tokens.json").items():
        if not is_id(number) or number < 0:
            raise SourceUnreadable(f"{text!r} has no id: {number!r}", where=files.place("added_tokens.json"))
        _put(made, number, text, USER_DEFINED, files)


def _put(made: Vocabulary, number: int, text: str, kind: int, files: Files) -> None:
    if number >= len(made.tokens):
        files.note(
            f"Token {text!r} has the id {number}, which the model's {len(made.tokens)} ids lack: left out"
        )
        return
    assert made.scores is not None
    made.tokens[number], made.types[number], made.scores[number] = text, kind, ADDED_SCORE
