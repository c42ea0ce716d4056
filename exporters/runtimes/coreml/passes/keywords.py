"""Keyword arguments that a translation never looks at: an error, where coremltools would compute something else.

`gelu(x, approximate="tanh")` comes out as the exact form without a word, since coremltools' translation reads
positional arguments only. So each translation is watched, and one that leaves a keyword of another value than
the default unread has failed; the operator is then decomposed by torch instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

HARMLESS = frozenset(
    ("device", "layout", "pin_memory", "memory_format", "non_blocking", "dtype", "out_dtype")
)
"""Where and how a tensor lies; its dtype is that of what it meets in MIL, and held by verification."""

Translation = Callable[[Any, Any], None]


class _Watched(dict[str, Any]):
    """Keyword arguments that remember which of them were asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)


def watched(translation: Translation) -> Translation:
    """The translation, failing with NotImplementedError where it leaves keyword arguments unread."""

    def translate(context: Any, node: Any) -> None:
        if not node.kwinputs:
            translation(context, node)
            return
        node.kwinputs = keywords = _Watched(node.kwinputs)
        translation(context, node)
        unread = sorted(set(keywords) - keywords.read - HARMLESS)
        if unread:
            raise NotImplementedError(f"its keyword {', '.join(unread)} is not read")

    return translate
