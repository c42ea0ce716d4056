"""Reads lines of text and makes token inputs of them with the model's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..targets.errors import UsageError
from ..targets.facts import IoFact
from .model_files import config, label_ids, longest_sequence
from .reading import Reading, Sample, Wanted, choose
from .tokenizer import Tokenizer, load

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FIELDS = ("text", "sentence", "content", "prompt", "query", "question")
"""Fields of a .jsonl line that hold a text, in the order in which they are looked for."""
PAIRS = (
    ("sentence1", "sentence2"),
    ("text", "text_pair"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "context"),
    ("question", "sentence"),
    ("query", "passage"),
)
MAX_LINE = 1 << 20
"""Longest line in bytes."""

_ROLES = {
    "ids": ("input_ids", "input_word_ids", "ids", "tokens", "token_ids"),
    "mask": ("attention_mask", "input_mask", "mask"),
    "types": ("token_type_ids", "segment_ids", "input_type_ids"),
    "positions": ("position_ids",),
}


@dataclass(frozen=True)
class Text:
    """One sample before tokenizing."""

    first: str
    second: str | None
    label: int | None
    where: str


def read(path: Path, wanted: Wanted) -> Reading:
    """Samples from a .txt (one text a line) or a .jsonl (fields `FIELDS` or `PAIRS`, and perhaps `label`).

    Tokens are padded on the right to `wanted.sequence`, to the input's own fixed length, or to the longest
    text up to what the model takes; longer texts are cut.

    Raises UsageError naming file and line, or saying what the model lacks.
    """
    roles = _assign_roles(wanted)
    tokenizer = load(wanted.model_dir)
    texts = _texts(path, wanted)
    length = _length(wanted)
    # Tokens of a few hundred texts are small; the padded length is known only when all are tokenized.
    encoded = [tokenizer.encode(text.first, text.second, length) for text in texts]
    for text, ids in zip(texts, encoded, strict=True):
        if not ids.ids:
            raise UsageError("no token comes out of this text", where=text.where)
    cut = sum(ids.cut for ids in encoded)
    fixed = wanted.sequence if wanted.sequence is not None else _fixed(wanted.inputs)
    padded = fixed if fixed is not None else max(len(ids.ids) for ids in encoded)
    warnings = [f"{cut} of {len(texts)} texts were cut to {padded} tokens"] if cut else []
    if "mask" not in roles and any(len(ids.ids) < padded for ids in encoded):
        warnings.append(
            "the model takes no attention mask, so it reads the padding of shorter texts as tokens"
        )
    return Reading("text", _samples(texts, encoded, roles, padded, tokenizer), warnings=tuple(warnings))


def _assign_roles(wanted: Wanted) -> dict[str, IoFact]:
    """Which input takes ids, mask, token types and positions."""
    roles: dict[str, IoFact] = {}
    for io in wanted.inputs:
        role = next((role for role, names in _ROLES.items() if io.name.lower() in names), None)
        if role is None and len(wanted.inputs) == 1:
            role = "ids"
        rows = io.shape is None or len(io.shape) == 2
        if role is None or not rows or not (role == "mask" or io.dtype.startswith("int")):
            raise UsageError(
                f"text cannot be turned into input {io.name!r} ({io.dtype}, {io.shape})",
                where="--calibration",
                mend=f"Give an .npz with one array for each of {wanted.names}",
            )
        roles[role] = io
    if "ids" not in roles:
        raise UsageError(f"the model takes no token ids, but {wanted.names}", where="--calibration")
    return roles


def _fixed(inputs: tuple[IoFact, ...]) -> int | None:
    """The tokens per sample that the inputs' shapes fix, or None."""
    sizes = {io.shape[1] for io in inputs if io.shape is not None and isinstance(io.shape[1], int)}
    if len(sizes) > 1:
        raise UsageError(f"inputs fix different lengths: {sorted(sizes)}", where="--calibration")
    size = sizes.pop() if sizes else None
    return size if isinstance(size, int) else None


def _length(wanted: Wanted) -> int:
    """Most tokens a sample may have."""
    fixed, most = _fixed(wanted.inputs), None
    if wanted.model_dir is not None:
        most = longest_sequence(wanted.model_dir)
    if wanted.sequence is not None and fixed not in (None, wanted.sequence):
        raise UsageError(
            f"{wanted.sequence} tokens asked for, and the model's input is fixed at {fixed}",
            where="--sequence",
        )
    chosen = wanted.sequence if wanted.sequence is not None else fixed
    if chosen is not None and most is not None and chosen > most:
        raise UsageError(
            f"{chosen} tokens are more than the {most} that the model takes",
            where="--sequence",
            mend=f"Give {most} or fewer",
        )
    return chosen if chosen is not None else most if most is not None else 512


def _texts(path: Path, wanted: Wanted) -> list[Text]:
    """The chosen texts: one pass counts the lines that are not empty, a second reads those that were drawn."""
    total = sum(1 for _ in lines(path))
    if not total:
        raise UsageError("the file holds no text", where=path.name)
    chosen = set(choose(total, wanted.limit, wanted.seed))
    parse: Callable[[bytes, str], Text] = _plain
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        labels = label_ids(config(wanted.model_dir))
        parse = lambda line, where: record(line, where, labels)  # noqa: E731
    return [
        parse(line, f"{path.name}: line {number}")
        for index, (number, line) in enumerate(lines(path))
        if index in chosen
    ]


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, content) of each line that is not empty."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise UsageError(
                    f"the line is longer than {MAX_LINE:,} bytes",
                    where=f"{path.name}: line {number}",
                    mend="Write one sample a line",
                )
            line = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if line:
                yield number, line


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("the line is not UTF-8", where=where) from None


def _plain(line: bytes, where: str) -> Text:
    return Text(_decode(line, where), None, None, where)


def record(line: bytes, where: str, labels: Mapping[str, int]) -> Text:
    """The text of a .jsonl line, in one of `FIELDS` or `PAIRS`, and its label; UsageError naming `where`."""
    try:
        raw = json.loads(_decode(line, where))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not valid JSON: {error}", where=where) from None
    raw = {"text": raw} if isinstance(raw, str) else raw
    if not isinstance(raw, dict):
        raise UsageError("not a JSON object", where=where)
    pair = next((pair for pair in PAIRS if all(isinstance(raw.get(key), str) for key in pair)), None)
    key = pair[0] if pair else next((key for key in FIELDS if isinstance(raw.get(key), str)), None)
    if key is None:
        raise UsageError(
            f"no text among the fields {', '.join(map(str, raw))}",
            where=where,
            mend=f"Name the text one of {', '.join(FIELDS)}, or give a pair like sentence1 and sentence2",
        )
    label = raw.get("label", raw.get("labels"))
    if isinstance(label, str):
        label = labels.get(label)
    label = label if isinstance(label, int) and not isinstance(label, bool) else None
    return Text(raw[key], raw[pair[1]] if pair else None, label, where)


def _samples(
    texts: list[Text], encoded: list[Any], roles: Mapping[str, IoFact], padded: int, tokenizer: Tokenizer
) -> Generator[Sample, None, None]:
    import numpy as np

    for text, found in zip(texts, encoded, strict=True):
        length = len(found.ids)
        rows = {
            "ids": (found.ids, tokenizer.pad),
            "mask": ([1] * length, 0),
            "types": (found.types, 0),
            "positions": (list(range(length)), 0),
        }
        arrays = {}
        for role, io in roles.items():
            values, filler = rows[role]
            dtype = np.float32 if io.dtype.startswith("float") else np.int64
            arrays[io.name] = np.asarray(values + [filler] * (padded - length), dtype)
        yield Sample(arrays, text.where, text.label, length)
