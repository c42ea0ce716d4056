"""Byte-level BPE tokenizers, trained in a moment, in the files that GPT-2, Llama 3, Qwen and SmolLM ship."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tiny_corpus import training_lines

tokenizers: Any = pytest.importorskip("tokenizers")

# The splits as the checkpoints' own tokenizer.json have them.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
    " + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_CHAT = (
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' +"
    " message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
)


@dataclass(frozen=True)
class Style:
    """How one family's byte-level BPE is put together; `pre` is llama.cpp's name for its pre-tokenizer."""

    pre: str
    tokenizer_class: str
    special: tuple[str, ...]
    plain: tuple[str, ...] = ()  # added tokens that are not special
    special_first: bool = False
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    add_bos: bool = False
    chat_template: str | None = None
    context: int = 2048


STYLES = {
    "gpt2": Style(
        "gpt-2", "GPT2Tokenizer", ("<|endoftext|>",),
        bos="<|endoftext|>", eos="<|endoftext|>", unk="<|endoftext|>", context=1024,
    ),
    "llama3": Style(
        "llama-bpe", "PreTrainedTokenizerFast",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|start_header_id|>",
         "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
        bos="<|begin_of_text|>", eos="<|eot_id|>", add_bos=True, chat_template=LLAMA3_CHAT, context=131072,
    ),
    "qwen2": Style(
        "qwen2", "Qwen2Tokenizer", ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>"),
        plain=("<tool_call>", "</tool_call>"),
        eos="<|im_end|>", pad="<|endoftext|>", chat_template=CHATML, context=32768,
    ),
    "qwen3": Style(
        "qwen2", "Qwen2Tokenizer", ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        plain=("<tool_call>", "</tool_call>", "<think>", "</think>"),
        eos="<|im_end|>", pad="<|endoftext|>", chat_template=CHATML, context=40960,
    ),
    "smollm": Style(
        "smollm", "GPT2Tokenizer", ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"),
        special_first=True, bos="<|im_start|>", eos="<|im_end|>", pad="<|im_end|>", unk="<|endoftext|>",
        chat_template=CHATML, context=8192,
    ),
}  # fmt: skip


def _pre_tokenizer(name: str) -> Any:
    pre = tokenizers.pre_tokenizers
    if name == "gpt2":
        return pre.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        return pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    split = tokenizers.Regex(LLAMA3_SPLIT if name == "llama3" else QWEN2_SPLIT)
    return pre.Sequence(
        [pre.Split(split, "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


@functools.cache
def _trained(name: str, vocabulary: int) -> str:
    """The tokenizer.json, its specials placed as the family places them."""
    style = STYLES[name]
    blank = tokenizers.Tokenizer(tokenizers.models.BPE())
    if name.startswith("qwen"):
        blank.normalizer = tokenizers.normalizers.NFC()
    blank.pre_tokenizer = _pre_tokenizer(name)
    first = list(style.special) if style.special_first else []
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=first,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    blank.train_from_iterator(training_lines(), trainer)
    if not style.special_first:
        blank.add_special_tokens(list(style.special))
    blank.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in style.plain])
    blank.decoder = tokenizers.decoders.ByteLevel()
    blank.post_processor = _post_processor(style, blank)
    text = json.loads(blank.to_str())
    text["model"]["ignore_merges"] = name == "llama3"
    return json.dumps(text, ensure_ascii=False, indent=2)


def _post_processor(style: Style, trained: Any) -> Any:
    byte_level = tokenizers.processors.ByteLevel(trim_offsets=False)
    if not style.add_bos:
        return byte_level
    beginning = (style.bos, trained.token_to_id(style.bos))
    template = tokenizers.processors.TemplateProcessing(
        single=f"{style.bos}:0 $A:0",
        pair=f"{style.bos}:0 $A:0 {style.bos}:1 $B:1",
        special_tokens=[beginning],
    )
    return tokenizers.processors.Sequence([byte_level, template])


def write_bpe(name: str, folder: Path, vocabulary: int = 768) -> int:
    """Write one style's tokenizer files as the checkpoints have them; returns how many ids there are."""
    style, text = STYLES[name], _trained(name, vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    parts = json.loads(text)
    write_json(folder / "tokenizer_config.json", _config(style, parts["added_tokens"]))
    named = {f"{what}_token": value for what, value in _named(style).items() if value}
    write_json(folder / "special_tokens_map.json", named)
    if style.tokenizer_class != "PreTrainedTokenizerFast":
        write_json(folder / "vocab.json", parts["model"]["vocab"])
        merges = [" ".join(pair) for pair in parts["model"]["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    ids = set(parts["model"]["vocab"].values()) | {token["id"] for token in parts["added_tokens"]}
    return int(max(ids)) + 1


def _named(style: Style) -> dict[str, str | None]:
    return {"bos": style.bos, "eos": style.eos, "pad": style.pad, "unk": style.unk}


def _config(style: Style, added: list[dict[str, Any]]) -> dict[str, Any]:
    decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "clean_up_tokenization_spaces": False,
        "model_max_length": style.context,
        "tokenizer_class": style.tokenizer_class,
    }
    config |= {f"{what}_token": value for what, value in _named(style).items()}
    if style.tokenizer_class == "PreTrainedTokenizerFast":
        del config["add_prefix_space"]
    if style.chat_template:
        config["chat_template"] = style.chat_template
    return config


def write_json(path: Path, value: object) -> None:
    """Write a value as the checkpoints' JSON files are written."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def ids_of(folder: Path) -> Callable[[str], list[int]]:
    """The folder's own ids for a text, without the special tokens that the template adds."""
    loaded = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: list(loaded.encode(text, add_special_tokens=False).ids)
