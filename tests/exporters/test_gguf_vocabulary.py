"""Tokenizer files are read field by field: bad ones are refused by name, and nothing needs llama.cpp for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelport.calibration.language_tokenizer.files import Files
from modelport.exporters.runtimes.gguf import vocabulary
from modelport.exporters.runtimes.gguf.vocabulary import (
    bpe,
    pretokenizers,
)
from modelport.exporters.runtimes.gguf.vocabulary import special as specials
from modelport.targets.errors import ModelportError, SourceUnreadable, Unsupported

gguf: Any = pytest.importorskip("gguf")
tokenizers: Any = pytest.importorskip("tokenizers")

LETTERS = tuple(bpe.byte_of())
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def added(number: int, text: str, **flags: object) -> dict[str, Any]:
    base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": text, **base, **flags}


def tokenizer_json() -> dict[str, Any]:
    """GPT-2's form with two merges: 256 letters, "th", "the", one special token."""
    tokens = {letter: number for number, letter in enumerate(LETTERS)} | {"th": 256, "the": 257}
    model = {"type": "BPE", "vocab": tokens, "merges": [["t", "h"], ["th", "e"]], "unk_token": None}
    return {
        "version": "1.0",
        "added_tokens": [added(258, "<|end|>")],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
        "model": model,
    }


def config() -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 260,
        "eos_token_id": 258,
    }


def settings() -> dict[str, Any]:
    return {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|end|>", "added_tokens_decoder": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, "tokenizer.json", tokenizer_json())
    put(tmp_path, "config.json", config())
    put(tmp_path, "tokenizer_config.json", settings())
    return tmp_path


def put(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def change(folder: Path, name: str, edit: Callable[[dict[str, Any]], Any]) -> Any:
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    edit(value)
    put(folder, name, value)


def write(folder: Path) -> dict[str, Any]:
    writer = gguf.GGUFWriter(None, "gpt2")
    vocabulary.write(folder, writer, gate=False)
    return {key: entry.value for key, entry in writer.kv_data[0].items()}


def test_a_byte_level_vocabulary_has_tokens_types_merges_and_padding(folder) -> None:
    written = write(folder)
    assert written["tokenizer.ggml.model"] == "gpt2"
    assert written["tokenizer.ggml.pre"] == "gpt-2"
    assert written["tokenizer.ggml.tokens"][256:] == ["th", "the", "<|end|>", "[PAD259]"]
    assert written["tokenizer.ggml.token_type"][256:] == [1, 1, 3, 5]
    assert written["tokenizer.ggml.merges"] == ["t h", "th e"]
    assert written["tokenizer.ggml.eos_token_id"] == 258
    assert written["tokenizer.ggml.add_bos_token"] is False


def test_the_chat_template_is_copied_and_never_rendered(folder) -> None:
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in range(10**9) %}{% endfor %}"
    change(folder, "tokenizer_config.json", lambda value: value.update(chat_template=hostile))
    assert write(folder)["tokenizer.chat_template"] == hostile


def test_named_templates_are_listed_in_the_files_order(folder) -> None:
    named = [{"name": name, "template": name * 2} for name in ("z", "default", "a b", "m")]
    change(folder, "tokenizer_config.json", lambda value: value.update(chat_template=named))
    written = write(folder)
    assert written["tokenizer.chat_templates"] == ["z", "a_b", "m"]
    assert written["tokenizer.chat_template"] == "defaultdefault"
    assert written["tokenizer.chat_template.a_b"] == "a ba b"


def test_a_tokenizer_json_is_not_needed_for_gpt2(folder) -> None:
    with_json = write(folder)
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").unlink()
    put(folder, "vocab.json", whole["model"]["vocab"] | {"<|end|>": 258})
    put(folder, "merges.txt", "#version: 0.2\nt h\nth e\n")
    without = write(folder)
    assert without["tokenizer.ggml.tokens"] == with_json["tokenizer.ggml.tokens"]
    assert without["tokenizer.ggml.merges"] == with_json["tokenizer.ggml.merges"]
    assert without["tokenizer.ggml.token_type"][258] == 3
    assert vocabulary.load_reference(folder).encode("the<|end|>", True) == [257, 258]


def test_a_post_processor_that_ends_texts_otherwise_makes_eos_an_end_of_turn(folder) -> None:
    change(folder, "tokenizer.json", lambda value: value["added_tokens"].append(added(259, "<|stop|>")))
    ends = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<|stop|>"}}],
        "pair": [],
    }
    change(folder, "tokenizer.json", lambda value: value.update(post_processor=ends))
    found = specials.find(Files(folder))
    assert found.ids == {"eos": 259, "eot": 258}
    assert found.add == {"eos": True}


DAMAGED: dict[str, tuple[Callable[[Path], Any], type[ModelportError], str]] = {
    "no JSON": (
        lambda f: put(f, "tokenizer.json", "{"),
        SourceUnreadable,
        "tokenizer.json: is not readable JSON",
    ),
    "deep JSON": (
        lambda f: put(f, "config.json", "[" * 100_000),
        SourceUnreadable,
        "config.json: is not readable",
    ),
    "a list": (
        lambda f: put(f, "tokenizer.json", []),
        SourceUnreadable,
        "tokenizer.json: is not a JSON object",
    ),
    "no bytes of text": (
        lambda f: (f / "tokenizer.json").write_bytes(b"{\xff\xfe"),
        SourceUnreadable,
        "tokenizer.json: is not readable JSON",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), SourceUnreadable, "has no tokenizer"),
    "no model": (lambda f: put(f, "tokenizer.json", {}), SourceUnreadable, "model: is missing"),
    "WordPiece": (
        lambda f: change(f, "tokenizer.json", lambda v: v["model"].update(type="WordPiece")),
        Unsupported,
        "model.type: tokenizers of type WordPiece",
    ),
    "WordLevel": (
        lambda f: change(f, "tokenizer.json", lambda v: v["model"].update(type="WordLevel")),
        Unsupported,
        "model.type: tokenizers of type WordLevel",
    ),
    "no vocabulary": (
        lambda f: change(f, "tokenizer.json", lambda v: v["model"].update(vocab=[])),
        SourceUnreadable,
        "model.vocab: has no tokens",
    ),
    "an id twice": (
        lambda f: change(f, "tokenizer.json", lambda v: v["model"]["vocab"].update(the=256)),
        SourceUnreadable,
        "model.vocab: 'th' and 'the' both have the id 256",
    ),
    "an id that is none": (
        lambda f: change(f, "tokenizer.json", lambda v: v["model"]["vocab"].update(the="257")),
        SourceUnreadable,
        "model.vocab: 'the' has no id: '257'",
    ),
    "an enormous id": (
        lambda f: change(f, "tokenizer.json", lambda v: v["model"]["vocab"].update(the=10**15)),
        SourceUnreadable,
        "model.vocab: has the id 1000000000000000",
    ),
    "a smaller vocab_size": (
        lambda f: change(f, "config.json", lambda v: v.update(vocab_size=258)),
        SourceUnreadable,
        "config.json: vocab_size: is 258, but tokenizer.json has the id 258",
    ),
    "an enormous vocab_size": (
        lambda f: change(f, "config.json", lambda v: v.update(vocab_size=10**12)),
        SourceUnreadable,
        "config.json: vocab_size: is 1000000000000",
    ),
    "a vocab_size that is none": (
        lambda f: change(f, "config.json", lambda v: v.update(vocab_size=True)),
        SourceUnreadable,
        "config.json: vocab_size: is True",
    ),
    "an added id out of place": (
        lambda f: change(f, "tokenizer.json", lambda v: v["added_tokens"][0].update(id=259)),
        SourceUnreadable,
        "added_tokens: '<|end|>' has the id 259, but the tokenizers library gives it 258",
    ),
    "an added token without text": (
        lambda f: change(f, "tokenizer.json", lambda v: v["added_tokens"][0].pop("content")),
        SourceUnreadable,
        "added_tokens[0]: has no text",
    ),
    "configs that disagree": (
        lambda f: change(
            f,
            "tokenizer_config.json",
            lambda v: v["added_tokens_decoder"].update({"258": {"content": "<|other|>"}}),
        ),
        SourceUnreadable,
        "added_tokens_decoder: '<|other|>' has the id 258, but in tokenizer.json it is 259",
    ),
    "an added key that is no id": (
        lambda f: change(
            f, "tokenizer_config.json", lambda v: v["added_tokens_decoder"].update({"x": {"content": "a"}})
        ),
        SourceUnreadable,
        "added_tokens_decoder['x']: is not an id",
    ),
    "no merges": (
        lambda f: change(f, "tokenizer.json", lambda v: v["model"].update(merges=[])),
        SourceUnreadable,
        "model.merges: has no merges",
    ),
    "merges of three": (
        lambda f: change(f, "tokenizer.json", lambda v: v["model"].update(merges=[["t", "h", "e"]])),
        SourceUnreadable,
        "model.merges: is not a list of pairs",
    ),
    "a special id outside": (
        lambda f: change(f, "config.json", lambda v: v.update(pad_token_id=260)),
        SourceUnreadable,
        "config.json: pad_token_id: is 260, outside the vocabulary of 260 ids",
    ),
    "a negative special id": (
        lambda f: change(f, "config.json", lambda v: v.update(pad_token_id=-7)),
        SourceUnreadable,
        "config.json: pad_token_id: is -7",
    ),
    "half a surrogate": (
        lambda f: change(f, "tokenizer.json", lambda v: v["added_tokens"].append(added(259, "\ud800"))),
        SourceUnreadable,
        "tokenizer.json: a token is not Unicode text",
    ),
    "padding's name taken": (
        lambda f: (
            change(f, "tokenizer.json", lambda v: v["added_tokens"].append(added(259, "[PAD260]")))
            or change(f, "config.json", lambda v: v.update(vocab_size=261))
        ),
        SourceUnreadable,
        "ids 259 and 260 are both '[PAD260]'",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_by_file_and_field(name, folder) -> None:
    damage, kind, words = DAMAGED[name]
    damage(folder)
    with pytest.raises(kind) as raised:
        write(folder)
    assert words in str(raised.value)
    assert str(folder) in str(raised.value)


def test_a_huge_file_is_refused_before_it_is_read(folder) -> None:
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(SourceUnreadable, match="has 1099511627776 bytes"):
        write(folder)


def test_a_tokenizer_that_the_library_cannot_load_is_refused(folder) -> None:
    change(folder, "tokenizer.json", lambda value: value["model"]["merges"].append(["t", "missing"]))
    with pytest.raises(SourceUnreadable, match=r"tokenizer\.json: the tokenizers library cannot read it"):
        vocabulary.load_reference(folder)


def test_the_reference_reads_special_tokens_or_leaves_them_text(folder) -> None:
    reference = vocabulary.load_reference(folder)
    assert reference.encode("the<|end|>", True) == [257, 258]
    assert 258 not in reference.encode("the<|end|>", False)
    assert reference.decode([257, 258]) == "the<|end|>"
    assert (reference.vocab, reference.bos) == (259, None)


def test_padding_and_truncation_of_a_tokenizer_json_are_left_out(folder) -> None:
    limits = {
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "!"},
    }  # fmt: skip
    change(folder, "tokenizer.json", lambda value: value.update(limits))
    assert vocabulary.load_reference(folder).encode("the the the", False) == [257, 220, 257, 220, 257]


@pytest.mark.parametrize(
    ("steps", "architecture", "first"),
    [
        ([BYTE_LEVEL], "GPT2LMHeadModel", "gpt-2"),
        ([BYTE_LEVEL], "PhiForCausalLM", "gpt-2"),
        ([{"type": "Digits", "individual_digits": True}, BYTE_LEVEL], "LlamaForCausalLM", "smollm"),
        ([pretokenizers.LLAMA3_SPLIT], "LlamaForCausalLM", "llama-bpe"),
        ([pretokenizers.LLAMA3_SPLIT], "Phi3ForCausalLM", "dbrx"),
        ([pretokenizers.QWEN2_SPLIT], "Qwen3ForCausalLM", "qwen2"),
        ([pretokenizers.QWEN2_SPLIT], "StableLmForCausalLM", "stablelm2"),
        ([pretokenizers.TEKKEN_SPLIT], "MistralForCausalLM", "tekken"),
        ([pretokenizers.GPT4O_SPLIT], "Phi3ForCausalLM", "gpt-4o"),
        (["[a-z]+"], "NovelForCausalLM", "llama-bpe"),
    ],
)
def test_the_likeliest_name_follows_from_the_splits_and_the_architecture(
    steps, architecture, first, folder
) -> None:
    plain = [s if isinstance(s, dict) else {"type": "Split", "pattern": {"Regex": s}} for s in steps]
    after = [] if BYTE_LEVEL in plain else [{**BYTE_LEVEL, "use_regex": False}]
    both = {"type": "Sequence", "pretokenizers": [*plain, *after]}
    change(folder, "tokenizer.json", lambda value: value.update(pre_tokenizer=both))
    change(folder, "config.json", lambda value: value.update(architectures=[architecture]))
    assert pretokenizers.hints(Files(folder))[0] == first
