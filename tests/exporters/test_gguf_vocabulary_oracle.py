"""The tokenizer's entries are those of llama.cpp's own converter, key by key, for every family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_oracle import Conversion, run_conversions
from modelport.exporters.runtimes.gguf import vocabulary
from tiny_configs import FAMILIES
from tiny_llms import make, pre_of

pytestmark = pytest.mark.slow

gguf: Any = pytest.importorskip("gguf")

OWN = ("tokenizer.",)


def edit(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A change of one JSON file of a folder."""

    def apply(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")

    return apply


def drop(*keys: str) -> Callable[[dict[str, Any]], Any]:
    return lambda value: [value.pop(key, None) for key in keys]


def template_list(value: dict[str, Any]) -> None:
    value["chat_template"] = [
        {"name": "default", "template": "{{ a }}"},
        {"name": "tool use", "template": "{{ b }}"},
    ]


def last_added(**flags: object) -> Callable[[Path], None]:
    """Another text or other flags for the last added token, in both files that list it."""

    def apply(folder: Path) -> None:
        edit("tokenizer.json", lambda value: value["added_tokens"][-1].update(flags))(folder)
        edit(
            "tokenizer_config.json",
            lambda value: list(value["added_tokens_decoder"].values())[-1].update(flags),
        )(folder)

    return apply


def jinja(folder: Path) -> None:
    edit("tokenizer_config.json", drop("chat_template"))(folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}\r\n{{ m }}{% endfor %}", encoding="utf-8"
    )


def template_json(folder: Path) -> None:
    edit("tokenizer_config.json", drop("chat_template"))(folder)
    (folder / "chat_template.json").write_text('{"chat_template": "{{ x }}"}', encoding="utf-8")


def config_only(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").unlink()


def no_sentencepiece(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()


CHANGES: dict[str, tuple[str, dict[str, Any], Callable[[Path], None]]] = {
    **{name: (name, {}, lambda folder: None) for name in FAMILIES},
    "prefix-space": (
        "mistral",
        {},
        edit("tokenizer_config.json", lambda v: v.update(add_prefix_space=False)),
    ),
    "code-llama": ("llama", {"config": {"vocab_size": 32016}}, lambda folder: None),
    "granite": ("smollm", {"config": {"vocab_size": 49152}}, lambda folder: None),
    "named-templates": ("qwen2", {}, edit("tokenizer_config.json", template_list)),
    "jinja-template": ("qwen3", {}, jinja),
    "template-json": ("mistral", {}, template_json),
    "config-only": ("llama3", {}, config_only),
    "config-only-spm": ("mistral", {}, config_only),
    "no-post-processor": ("llama3", {}, edit("tokenizer.json", drop("post_processor"))),
    "bos-flag": ("qwen2", {}, edit("tokenizer_config.json", lambda v: v.update(add_bos_token=True))),
    "normalized-token": ("qwen2", {}, last_added(normalized=True)),
    "byte-letter-token": ("qwen2", {}, last_added(content="Ġé")),
    "foreign-token": ("qwen2", {}, last_added(content="日本▁語")),
    "new-named-token": ("qwen2", {}, edit("tokenizer_config.json", lambda v: v.update(unk_token="<|new|>"))),
    "extra-special": (
        "qwen2",
        {},
        edit("tokenizer_config.json", lambda v: v.update(additional_special_tokens=["</tool_call>"])),
    ),
    "flags-in-config": ("qwen2", {}, edit("tokenizer_config.json", lambda v: v.pop("added_tokens_decoder"))),
    "token-objects": (
        "mistral",
        {},
        edit(
            "tokenizer_config.json",
            lambda v: v.update(
                bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False}
            ),
        ),
    ),
    "pad-outside": ("mistral", {"config": {"pad_token_id": 5000}}, lambda folder: None),
    "qwen2-sentencepiece": ("qwen2", {"tokenizer": "llama"}, lambda folder: None),
    "gemma-1": (
        "gemma2",
        {"config": {"architectures": ["GemmaForCausalLM"], "model_type": "gemma"}},
        lambda _: None,
    ),
    "llama-hf": ("llama", {}, no_sentencepiece),
    "mistral-hf": ("mistral", {}, no_sentencepiece),
}
"""Name -> (architecture, arguments of `make`, what is then changed in the folder)."""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Every folder with its vocabulary by the oracle: name -> (folder, file)."""
    root = tmp_path_factory.mktemp("vocabularies")
    made: dict[str, tuple[Path, Path]] = {}
    jobs: list[Conversion] = []
    for name, (architecture, arguments, change) in CHANGES.items():
        folder = make(architecture, root / name, layers=1, hidden=64, **arguments)
        change(folder)
        pre = None if arguments.get("tokenizer") else pre_of(architecture)
        jobs.append(Conversion(folder, root / f"{name}.gguf", pre=pre, vocab_only=True))
        made[name] = (folder, root / f"{name}.gguf")
    run_conversions(jobs)
    return made


def entries(path: Path) -> list[tuple[str, tuple[Any, ...], Any]]:
    reader = gguf.GGUFReader(path)
    return [
        (key, tuple(field.types), field.contents())
        for key, field in reader.fields.items()
        if key.startswith(OWN)
    ]


def written(folder: Path, path: Path, *, gate: bool) -> tuple[list[tuple[str, tuple[Any, ...], Any]], Any]:
    writer = gguf.GGUFWriter(path, "llama")
    report = vocabulary.write(folder, writer, gate=gate)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return entries(path), report


@pytest.mark.parametrize("name", CHANGES)
def test_entries_are_the_converters_own(name, converted, tmp_path) -> None:
    folder, theirs = converted[name]
    ours, _ = written(folder, tmp_path / "ours.gguf", gate=False)
    for mine, other in zip(ours, entries(theirs), strict=False):
        assert mine == other
    assert [each[0] for each in ours] == [each[0] for each in entries(theirs)]
