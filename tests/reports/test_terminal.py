"""What a terminal is given: no commands out of a model's names or texts, and no figure twice."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.text import Text

from manifests import manifest
from modelport.reports import language, terminal

EVIL = "a\x1b[31mred\x1b]0;title\x07\x9b2Jb\u202edecro\udcff"


def shown(write: Any, width: int = 160) -> str:
    """What `write(console)` prints."""
    stream = io.StringIO()
    write(terminal.SafeConsole(file=stream, width=width, highlight=False, markup=False))
    return stream.getvalue()


@pytest.mark.parametrize("given", [EVIL, Text(EVIL), Text.assemble("x ", (EVIL, "bold"))])
def test_control_characters_are_shown_and_not_obeyed(given: Any) -> None:
    text = shown(lambda console: console.print(given))
    assert not set(text) & set("\x1b\x07\x9b\u202e\udcff")
    assert r"\x1b[31mred" in text


def test_lines_and_joined_emoji_stay() -> None:
    assert shown(lambda console: console.print(Text("one\ntwo 👩\u200d🚀"))) == "one\ntwo 👩\u200d🚀\n"


def test_names_in_the_summary_are_no_commands() -> None:
    evil = {**manifest()["source"], "name": EVIL}
    sample = {"prompt": EVIL, "text": EVIL}
    text = shown(lambda console: terminal.summary(console, manifest(source=evil, sample=sample), EVIL))
    assert not set(text) & set("\x1b\x07\x9b\u202e\udcff")


def test_this_host_is_predicted_once() -> None:
    both = shown(lambda console: terminal.summary(console, manifest(), "out"))
    once = shown(lambda console: terminal.summary(console, manifest(device="this-host"), "out"))
    assert (both.count("predicted"), once.count("predicted")) == (2, 1)


def test_of_a_long_prompt_the_end_is_shown() -> None:
    found = language.sample({"sample": {"prompt": "begin " + "x" * 5000 + " end", "text": " and on"}})
    assert found.endswith("x end and on")
    assert "begin" not in found
