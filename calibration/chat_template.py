"""Conversations as the text that a model was tuned on: its own chat template, in transformers' sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..targets.errors import MissingExtra, SourceUnreadable, UsageError
from .language_tokenizer.files import Files, content

JINJA, JSON = "chat_template.jinja", "chat_template.json"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Message = Mapping[str, str]
Render = Callable[[Sequence[Message]], str]
"""A conversation to text."""


def load(folder: Path) -> Render:
    """What renders a conversation in the chat format of the model in `folder`.

    The template runs in the sandboxed, immutable Jinja environment that transformers renders it in, and sees the
    messages and the names of special tokens. Raises UsageError where the model has none, MissingExtra without
    transformers.
    """
    files = Files(folder)
    template, place = _template(files)
    try:
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError as error:
        raise MissingExtra(
            "chat templates are rendered by transformers, which is not installed",
            where="--chat-template",
            mend="pip install 'modelport[torch]'",
        ) from error
    tokens = {name: text for name in NAMED if (text := content(files.settings.get(name)))}

    def render(messages: Sequence[Message]) -> str:
        try:
            rendered, _ = render_jinja_template(
                conversations=[list(messages)], chat_template=template, add_generation_prompt=False, **tokens
            )
        except Exception as error:  # whatever a template raises, its own raise_exception included
            raise UsageError(f"the template refuses a conversation: {error}", where=place) from error
        return str(rendered[0])

    return render


def _template(files: Files) -> tuple[str, str]:
    """The template and where it stands: a file of its own goes before the tokenizer's settings."""
    if files.has(JINJA):
        return files.text(JINJA), files.place(JINJA)
    file = JSON if files.has(JSON) else "tokenizer_config.json"
    found = files.json(file).get("chat_template")
    if isinstance(found, list):  # several by name, as transformers 4 wrote them
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    if found is None:
        raise UsageError(
            "the model has no chat template",
            where="--chat-template",
            mend="Leave it out: the text is taken as it is",
        )
    if not isinstance(found, str):
        raise SourceUnreadable("a text is expected", where=files.place(file, "chat_template"))
    return found, files.place(file, "chat_template")


def messages(line: bytes, where: str) -> list[Message]:
    """The conversation of a .jsonl line: {"messages": [{"role", "content"}, ...]}; UsageError naming `where`."""
    try:
        raw: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not valid JSON: {error}", where=where) from None
    found = raw.get("messages") if isinstance(raw, dict) else None
    if not isinstance(found, list) or not found:
        raise UsageError(
            'no "messages"', where=where, mend='Write {"messages": [{"role": "user", "content": "..."}]}'
        )
    for index, message in enumerate(found):
        given = message if isinstance(message, dict) else {}
        if not all(isinstance(given.get(key), str) for key in ("role", "content")):
            raise UsageError(
                "role and content are expected, each a text", where=f"{where}: messages[{index}]"
            )
    return [{"role": message["role"], "content": message["content"]} for message in found]
