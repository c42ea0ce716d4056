"""Reads JSON that came with a model: capped in size and depth, no repeated keys, fields checked by type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...targets.errors import SourceUnreadable

CONFIG_LIMIT = 8 << 20
"""Largest config.json, preprocessor_config.json or index that is read, in bytes."""
MAX_INTEGER = 1 << 48
"""Largest size or count that any field may hold."""
_MISSING = object()


def parse(content: bytes, where: str) -> Any:
    """The JSON value in `content`; `where` ("file: field") stands in the error.

    Raises SourceUnreadable when it is no UTF-8 JSON, repeats a key in one object (two readers could then
    read two values), or nests too deeply.
    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=lambda pairs: _object(pairs, where))
    except UnicodeDecodeError as error:
        raise SourceUnreadable(f"not UTF-8 text at byte {error.start}", where=where) from None
    except RecursionError:
        raise SourceUnreadable("nested too deeply", where=where) from None
    except ValueError as error:
        raise SourceUnreadable(f"not valid JSON: {str(error)[:200]}", where=where) from None


def _object(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise SourceUnreadable(f"the key {double[:80]!r} stands twice", where=where)
    return result


def read(path: Path, *, limit: int = CONFIG_LIMIT) -> Any:
    """The JSON value in the file `path`, which may hold at most `limit` bytes."""
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise SourceUnreadable(f"cannot be read: {error.strerror}", where=path.name) from None
    if len(content) > limit:
        raise SourceUnreadable(f"larger than the {limit:,} bytes allowed", where=path.name)
    return parse(content, path.name)


def read_object(path: Path, *, limit: int = CONFIG_LIMIT) -> dict[str, Any]:
    """The JSON object in the file `path`."""
    value = read(path, limit=limit)
    if not isinstance(value, dict):
        raise SourceUnreadable(f"a JSON object is expected, not {kind_of(value)}", where=path.name)
    return value


def kind_of(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    if value is None:
        return "null"
    names = (
        (bool, "true or false"),
        (int, "an integer"),
        (float, "a number"),
        (str, "text"),
        (list, "a list"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "an object")


@dataclass(frozen=True)
class Fields:
    """Typed access to the fields of one JSON object; every error names `file` and field."""

    values: Mapping[str, Any]
    file: str

    def where(self, name: str) -> str:
        """Where an error about the field stands."""
        return f"{self.file}: {name}"

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            if default is _MISSING:
                raise SourceUnreadable("this field is missing", where=self.where(name))
            return default
        return value

    def integer(self, name: str, default: Any = _MISSING, *, low: int = 1, high: int = MAX_INTEGER) -> int:
        """An integer from `low` to `high`; `default` when absent or null, an error without a default."""
        value = self._get(name, default)
        if isinstance(value, float) and value.is_integer() and abs(value) <= high:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            fact = f"an integer is expected, not {kind_of(value)}"
            raise SourceUnreadable(fact, where=self.where(name))
        if not low <= value <= high:
            shown = value if abs(value) < 10**30 else "a huge number"
            raise SourceUnreadable(f"{shown} is not between {low} and {high}", where=self.where(name))
        return value

    def number(self, name: str, default: Any = _MISSING) -> float:
        """A finite number."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise SourceUnreadable(f"a number is expected, not {kind_of(value)}", where=self.where(name))
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            fact = f"true or false is expected, not {kind_of(value)}"
            raise SourceUnreadable(fact, where=self.where(name))
        return value

    def text(self, name: str, default: Any = _MISSING) -> str:
        """A text of at most 300 characters."""
        value = self._get(name, default)
        if not isinstance(value, str) or len(value) > 300:
            fact = f"a short text is expected, not {kind_of(value)}"
            raise SourceUnreadable(fact, where=self.where(name))
        return value

    def integers(self, name: str, default: Any = _MISSING, *, high: int = MAX_INTEGER) -> tuple[int, ...]:
        """A list of at most 1000 positive integers."""
        value = self._get(name, default)
        good = isinstance(value, list | tuple) and len(value) <= 1000
        if not good or not all(type(item) is int and 1 <= item <= high for item in value):
            raise SourceUnreadable(f"a list of integers from 1 to {high} is expected", where=self.where(name))
        return tuple(value)
