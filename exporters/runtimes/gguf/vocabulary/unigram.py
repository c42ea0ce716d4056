"""What Unigram vocabularies have besides their pieces: SentencePiece's compiled normalizer and its flags."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .....calibration.language_tokenizer.files import MOST_TOKENS, Files, added_tokens, is_id
from .....targets.errors import SourceUnreadable
from .entries import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary, padded

UNIGRAM = 1
"""trainer_spec.model_type of a Unigram model (sentencepiece_model.proto); BPE is 2."""


@dataclass(frozen=True)
class Proto:
    """The fields of tokenizer.model that the sentencepiece package does not show."""

    model_type: int = UNIGRAM
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


def read_proto(data: bytes) -> Proto:
    """Read trainer_spec.model_type and the normalizer_spec of a serialized SentencePiece model.

    Raises ValueError where the bytes are no such message.
    """
    position = 0
    # The pieces come first, hundreds of thousands of them, nearly all shorter than 128 bytes.
    while position + 1 < len(data) and data[position] == 0x0A and data[position + 1] < 0x80:
        position += 2 + data[position + 1]
    found: dict[str, Any] = {}
    for field, value in _fields(data, position):
        if field == 2 and isinstance(value, bytes):
            found.update(("model_type", each) for number, each in _fields(value) if number == 3)
        elif field == 3 and isinstance(value, bytes):
            names = {2: "charsmap", 3: "add_dummy_prefix", 4: "remove_extra_whitespaces"}
            found |= {names[number]: each for number, each in _fields(value) if number in names}
    charsmap = found.get("charsmap", b"")
    return Proto(
        int(found.get("model_type", UNIGRAM)),
        charsmap if isinstance(charsmap, bytes) else b"",
        bool(found.get("add_dummy_prefix", True)),
        bool(found.get("remove_extra_whitespaces", True)),
    )


def _fields(data: bytes, position: int = 0) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of each field of a protobuf message; fixed-size fields as their bytes."""
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            number, position = _varint(data, position)
            yield tag >> 3, number
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + length > len(data):
            raise ValueError("a field goes past the end")
        yield tag >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number goes past the end")


def by_proto(made: Vocabulary, data: bytes) -> None:
    """Turn the pieces of a tokenizer.model into llama.cpp's "t5" form."""
    proto = read_proto(data)
    made.kind = "t5"
    made.flags = {
        "add_space_prefix": proto.add_dummy_prefix,
        "remove_extra_whitespaces": proto.remove_extra_whitespaces,
    }
    made.charsmap = proto.charsmap


def by_json(files: Files) -> Vocabulary:
    """A Unigram vocabulary out of tokenizer.json, in the "t5" form."""
    model = files.part("model")
    listed = model.get("vocab")
    where = files.place("tokenizer.json", "model.vocab")
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_TOKENS:
        raise SourceUnreadable("is not a list of pieces", where=where)
    added = list(added_tokens(files))
    highest = max([len(listed) - 1, *(number for _, number, _ in added)])
    size = files.declared_size() or highest + 1
    if highest >= min(size, MOST_TOKENS):
        raise SourceUnreadable(
            f"is {size}, but tokenizer.json has the id {highest}",
            where=files.place("config.json", "vocab_size"),
        )
    made = padded(size, -10000.0)
    made.kind = "t5"
    assert made.scores is not None
    for number, pair in enumerate(listed):
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise SourceUnreadable(f"[{number}] is not a piece with its score", where=where)
        if not isinstance(pair[1], int | float):
            raise SourceUnreadable(f"[{number}] has no score: {pair[1]!r}", where=where)
        made.tokens[number], made.scores[number], made.types[number] = pair[0], float(pair[1]), NORMAL
        if model.get("byte_fallback") and len(pair[0]) == 6 and pair[0].startswith("<0x"):
            made.types[number] = BYTE
    for text, number, raw in added:
        made.tokens[number] = text
        made.types[number] = CONTROL if raw.get("special") else USER_DEFINED
    unknown = model.get("unk_id")
    if is_id(unknown) and 0 <= unknown < size:
        made.types[unknown] = UNKNOWN
    _normalizer(files, made)
    return made


def _normalizer(files: Files, made: Vocabulary) -> None:
    normalizers = _flat(files.part("normalizer"), "normalizers")
    spaces = [
        step
        for step in _flat(files.part("pre_tokenizer"), "pretokenizers")
        if step.get("type") == "Metaspace"
    ]
    # Metaspace says it by prepend_scheme since tokenizers 0.15, by add_prefix_space before.
    prefix = any(
        s.get("prepend_scheme", "always") != "never" and s.get("add_prefix_space", True) for s in spaces
    )
    merged = any(
        step.get("type") == "WhitespaceSplit" for step in _flat(files.part("pre_tokenizer"), "pretokenizers")
    ) or any(
        step.get("type") == "Replace" and "{2,}" in str((step.get("pattern") or {}).get("Regex"))
        for step in normalizers
    )
    made.flags = {"add_space_prefix": prefix, "remove_extra_whitespaces": merged}
    for step in normalizers:
        if step.get("type") == "Precompiled":
            try:
                made.charsmap = base64.b64decode(str(step.get("precompiled_charsmap") or ""), validate=True)
            except binascii.Error as error:
                raise SourceUnreadable(
                    "precompiled_charsmap is not base64", where=files.place("tokenizer.json", "normalizer")
                ) from error


def _flat(step: dict[str, Any], inner: str) -> list[dict[str, Any]]:
    """A step, or the steps of a sequence."""
    if step.get("type") != "Sequence":
        return [step] if step else []
    listed = step.get(inner)
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
