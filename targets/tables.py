"""Typed reading of TOML written by people: every mistake becomes one UsageError naming file and key."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import UsageError

MAX_TOML_BYTES = 1 << 20
"""A card or device file is a few kilobytes; a larger one is refused before it is read."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
"""What targets, devices, schemes and aliases may be called."""

REQUIRED: Any = object()
"""The default of a key that has to be there."""


def read_toml(path: Path) -> dict[str, Any]:
    """The parsed file; raises UsageError when it is missing, too large, not UTF-8 or not TOML."""
    try:
        size = path.stat().st_size
        if size > MAX_TOML_BYTES:
            raise UsageError(
                f"the file has {size} bytes, more than the {MAX_TOML_BYTES} of any card",
                where=str(path),
                mend="Name a target or device file in TOML",
            )
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror or error}", where=str(path), mend="Check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"is not valid TOML: {error}", where=str(path), mend="Mend the line that is named"
        ) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The sentence "Did you mean a or b? " for the closest known names, or "" when none is close."""
    # dict.fromkeys: several aliases may lead to the same name.
    close = list(dict.fromkeys(difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)))
    return f"Did you mean {' or '.join(close)}? " if close else ""


class Table:
    """One TOML table being read: each `take` checks a type, `done` rejects what nobody took."""

    def __init__(self, raw: Mapping[str, Any], file: str, at: str = "") -> None:
        self._raw = raw
        self._file = file
        self._at = at
        self._known: set[str] = set()

    def where(self, key: str) -> str:
        """File and dotted key, as in "my-board.toml: quant.int8.weight_bits"."""
        return f"{self._file}: {self._at}{key}"

    def fail(self, key: str, fact: str, mend: str) -> UsageError:
        """The error for one key, to be raised by the caller."""
        return UsageError(fact, where=self.where(key), mend=mend)

    def keys(self) -> tuple[str, ...]:
        """The keys that the file gives, in its order."""
        return tuple(self._raw)

    def _get(self, key: str, default: Any, wanted: str) -> Any:
        self._known.add(key)
        if key in self._raw:
            return self._raw[key]
        if default is REQUIRED:
            raise self.fail(key, "the key is missing", f"Add it: {wanted}")
        return default

    def text(self, key: str, default: Any = REQUIRED, *, choices: Iterable[str] = ()) -> str:
        """A string, one of `choices` when there are any."""
        value = self._get(key, default, "a string")
        if value is default:
            return str(value)
        if not isinstance(value, str):
            raise self.fail(key, f"is {value!r}, not a string", "Put it in quotes")
        allowed = tuple(choices)
        if allowed and value not in allowed:
            hint = did_you_mean(value, allowed)
            raise self.fail(key, f"is {value!r}", f"{hint}The choices are {', '.join(allowed)}")
        return value

    def name(self, key: str, default: Any = REQUIRED) -> str:
        """A string that may be typed as a name: lower-case letters, digits, '.', '_' and '-'."""
        return check_name(self.text(key, default), self.where(key))

    def texts(self, key: str, default: Any = REQUIRED) -> tuple[str, ...]:
        """A list of strings without repetitions."""
        value = self._get(key, default, "a list of strings")
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise self.fail(key, f"is {value!r}, not a list of strings", 'Write it as ["a", "b"]')
        if len(set(value)) != len(value):
            raise self.fail(key, "names the same thing twice", "Remove the repetition")
        return tuple(value)

    def number(self, key: str, default: Any = REQUIRED, *, low: float = 0.0, high: float = math.inf) -> Any:
        """A finite float above `low` and up to `high`; `default` (which may be None) when it is not there."""
        value = self._get(key, default, "a number")
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(key, f"is {value!r}, not a number", "Write a plain number, without a unit")
        if not (low < value <= high and math.isfinite(value)):
            bound = f"above {low:g}" + (f" and at most {high:g}" if math.isfinite(high) else "")
            raise self.fail(key, f"is {value}", f"Give a finite number {bound}")
        return float(value)

    def count(self, key: str, default: Any = REQUIRED) -> Any:
        """A positive whole number (bytes, mostly); `default`, which may be None, when it is not there."""
        value = self.number(key, default)
        if value is default:
            return value
        if value != int(value):
            raise self.fail(key, f"is {value}, not a whole number", "Give whole bytes")
        return int(self._raw[key])

    def table(self, key: str) -> Table:
        """A sub-table; an empty one when the file has none."""
        value = self._get(key, {}, "a table")
        if not isinstance(value, dict):
            raise self.fail(key, f"is {value!r}, not a table", f"Write [{self._at}{key}] and keys below it")
        return Table(value, self._file, f"{self._at}{key}.")

    def done(self) -> None:
        """Reject every key that was not taken."""
        for key in self._raw:
            if key not in self._known:
                hint = did_you_mean(key, self._known)
                known = ", ".join(sorted(self._known))
                raise self.fail(key, "nothing reads this key", f"{hint}The keys here are {known}")


def check_name(name: str, where: str) -> str:
    """`name` itself, or a UsageError when it could not be typed as a name."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name",
            where=where,
            mend="Use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )
    return name
