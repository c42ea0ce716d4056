"""A GGUF model in one file or in the parts that llama-gguf-split made: every tensor with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...targets.errors import SourceUnreadable
from ..files.containment import contained
from ..place import Place
from .header import Header, read_header
from .types import TYPES, type_bytes
from .values import Entry, value

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
"""The keys of a part: its number from 0, how many parts there are, and how many tensors in all."""

_MERGE = "Put all parts into one folder, or join them with llama-gguf-split --merge"


@dataclass(frozen=True)
class Model:
    """All parts of one model together."""

    entries: tuple[Entry, ...]
    """Keys and values, without those that only say how the model is split."""
    places: Mapping[str, Place]
    """Where each tensor lies, in the order of the files."""
    files: tuple[Path, ...]
    trailing: int = 0
    """Bytes behind the last tensors that belong to none."""


def read_model(path: Path) -> Model:
    """The model whose only or first file is `path`.

    Refused with SourceUnreadable: what `read_header` refuses, a part that is not the first, parts that are
    missing or say other numbers than their names, a tensor in two parts, and a count of tensors that is
    not the one declared.
    """
    first = read_header(path)
    headers = {path: first, **{part: read_header(part) for part in _other_parts(path, first)}}
    found: dict[str, Place] = {}
    for number, (file, header) in enumerate(headers.items()):
        if len(headers) > 1:
            _check_part(file, header, number, len(headers))
        for place_name, place in _places(file, header).items():
            if place_name in found:
                raise SourceUnreadable("stands in two parts", where=f"{file.name}: {place_name}", mend=_MERGE)
            found[place_name] = place
    if len(headers) > 1:
        _check_total(path, first, len(found))
    entries = tuple(entry for entry in first.entries if entry.key not in (NUMBER, COUNT, TENSORS))
    return Model(entries, found, tuple(headers), sum(header.trailing for header in headers.values()))


def _places(file: Path, header: Header) -> dict[str, Place]:
    return {
        info.name: Place(
            file,
            header.data + info.offset,
            TYPES[info.type][0],
            info.shape,
            type_bytes(info.type, info.shape),
        )
        for info in header.tensors
    }


def _integer(file: Path, header: Header, key: str, default: int) -> int:
    found = header.find(key)
    number = default if found is None else value(found)
    if isinstance(number, bool) or not isinstance(number, int):
        raise SourceUnreadable("an integer is expected", where=f"{file.name}: {key}")
    return number


def _other_parts(path: Path, first: Header) -> list[Path]:
    """The parts after the first, found by name beside it; none for a model in one file."""
    count = _integer(path, first, COUNT, 1)
    if count <= 1:
        return []
    where = f"{path.name}: {COUNT}"
    number = _integer(path, first, NUMBER, 0)
    named = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if named is None or (int(named[2]), int(named[3])) != (number + 1, count):
        fact = f"this is part {number + 1} of {count}, and its name does not say so"
        raise SourceUnreadable(fact, where=where, mend=_MERGE)
    names = [f"{named[1]}-{index:05}-of-{named[3]}.gguf" for index in range(1, count + 1)]
    if number != 0:
        mend = f"Name the first part, {path.parent / names[0]}"
        raise SourceUnreadable(f"this is part {number + 1} of {count}", where=where, mend=mend)
    missing = [name for name in names if not (path.parent / name).exists()]
    if missing:
        fact = f"of {count} parts {len(missing)} are missing, as {missing[0]}"
        raise SourceUnreadable(fact, where=where, mend=_MERGE)
    return [contained(path.parent, name, where=where) for name in names[1:]]


def _check_part(file: Path, header: Header, number: int, count: int) -> None:
    for key, expected in ((NUMBER, number), (COUNT, count)):
        declared = _integer(file, header, key, -1)
        if declared != expected:
            fact = f"{declared} stands here, and {expected} follows from the name"
            raise SourceUnreadable(fact, where=f"{file.name}: {key}", mend=_MERGE)


def _check_total(path: Path, first: Header, found: int) -> None:
    declared = _integer(path, first, TENSORS, found)
    if declared != found:
        fact = f"{declared:,} tensors are declared, and {found:,} stand in the parts"
        raise SourceUnreadable(fact, where=f"{path.name}: {TENSORS}", mend=_MERGE)
