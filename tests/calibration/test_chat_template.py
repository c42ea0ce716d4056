"""Conversations in the model's own chat format: rendered in a sandbox, refused where they are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.calibration import chat_template, language
from modelport.calibration.samples import SampleSet
from modelport.targets.errors import SourceUnreadable, UsageError

pytest.importorskip("transformers")

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]


def folder(path: Path, **settings: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", **settings}))
    return path


def test_a_conversation_is_rendered_with_the_names_of_special_tokens(tmp_path: Path) -> None:
    render = chat_template.load(folder(tmp_path / "model", chat_template=TEMPLATE))
    assert render(TALK) == "<s><|user|>Hello<|end|><|assistant|>Good day<|end|>"


def test_the_templates_own_file_goes_before_the_settings(tmp_path: Path) -> None:
    model = folder(tmp_path / "model", chat_template="old")
    (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert chat_template.load(model)(TALK) == "Hello"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert chat_template.load(folder(tmp_path / "model", chat_template=named))(TALK) == "yes"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({'role': 'system', 'content': 'x'}) }}",
        "{{ raise_exception('only one system message') }}",
        "{% for m in messages %}",
    ],
)
def test_what_a_template_may_not_do_is_one_error(tmp_path: Path, template: str) -> None:
    render = chat_template.load(folder(tmp_path / "model", chat_template=template))
    with pytest.raises(UsageError, match="the template refuses") as raised:
        render(TALK)
    assert "chat_template" in raised.value.where


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no chat template"):
        chat_template.load(folder(tmp_path / "model"))
    with pytest.raises(SourceUnreadable, match="a text is expected"):
        chat_template.load(folder(tmp_path / "model", chat_template=7))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"text": "plain"}', '"messages"'),
        (b'{"messages": []}', '"messages"'),
        (b'{"messages": [{"role": "user"}]}', "role and content"),
        (b'{"messages": [{"role": "user", "content": ["parts"]}]}', "role and content"),
        (b"{", "not valid JSON"),
    ],
)
def test_lines_that_are_no_conversation_are_named(line: bytes, what: str) -> None:
    with pytest.raises(UsageError, match=what) as raised:
        chat_template.messages(line, "talks.jsonl: line 3")
    assert raised.value.where.startswith("talks.jsonl: line 3")


def test_windows_hold_whole_conversations_and_no_more(tmp_path: Path) -> None:
    talks = tmp_path / "talks.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"question {n} " * 20}]} for n in range(40)]
    talks.write_text("\n".join(map(json.dumps, lines)))
    render = chat_template.load(folder(tmp_path / "model", chat_template=TEMPLATE))
    language.prepare(
        str(talks), lambda text: list(text.encode()), tmp_path / "out", window=64, limit=20, chat=render
    )
    kept = np.asarray(SampleSet.open(tmp_path / "out" / "calibration").array("input_ids"))
    text = bytes(kept.ravel().astype(np.uint8)).decode()
    assert "<|end|><s><|user|>question" in text
    assert "\n" not in text


def test_a_template_needs_conversations(tmp_path: Path) -> None:
    render = chat_template.load(folder(tmp_path / "model", chat_template=TEMPLATE))
    book = tmp_path / "book.txt"
    book.write_text("no conversation\n" * 500)

    def encode(text: str) -> list[int]:
        return list(text.encode())

    with pytest.raises(UsageError, match="holds no conversations"):
        language.prepare(str(book), encode, tmp_path / "out", window=64, chat=render)
    with pytest.raises(UsageError, match="no text to format"):
        language.prepare(None, encode, tmp_path / "out", window=64, chat=render)
