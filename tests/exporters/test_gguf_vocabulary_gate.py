"""The parity gate: llama.cpp itself finds the pre-tokenizer, and what is wrong with a vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_oracle import Conversion, run_conversions
from modelport.calibration.language_tokenizer.files import Files
from modelport.exporters.runtimes.gguf import vocabulary
from modelport.exporters.runtimes.gguf.vocabulary import families, gate, pretokenizers, trial
from modelport.exporters.runtimes.gguf.vocabulary.entries import BYTE, NORMAL, Vocabulary
from modelport.exporters.runtimes.gguf.vocabulary.llama_vocabulary import (
    LlamaVocabulary,
    pack,
    vocabulary_entries,
)
from modelport.targets.errors import ConversionFailed, Unsupported
from tiny_configs import FAMILIES
from tiny_llms import make, pre_of

pytestmark = pytest.mark.slow

gguf: Any = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

LISTS = ("tokens", "token_type", "scores", "merges")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of tiny models, made once each."""
    root = tmp_path_factory.mktemp("gate")
    made: dict[str, Path] = {}

    def folder(name: str, architecture: str | None = None, **arguments: Any) -> Path:
        if name not in made:
            made[name] = make(architecture or name, root / name, layers=1, hidden=64, **arguments)
        return made[name]

    return folder


def writer_and_gate(folder: Path) -> tuple[Any, gate.Gate]:
    files, writer = Files(folder), gguf.GGUFWriter(None, "llama")
    reference = vocabulary.load_reference(folder)
    pre = pretokenizers.hints(files)[0]
    written = families.write_family(files, writer, lambda: pre, lambda number: reference.decode([number]))
    return writer, gate.Gate(files, written.vocabulary, reference)


def change(folder: Path, name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    edit(value)
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_passes_with_the_converters_own_name(architecture, folders) -> None:
    report = vocabulary.write(folders(architecture), gguf.GGUFWriter(None, "llama"), gate=True)
    assert report.pre == pre_of(architecture)
    assert report.lines > 340


@pytest.mark.parametrize("architecture", ["gpt2", "llama3", "qwen2", "smollm"])
def test_the_gate_finds_the_pre_tokenizer_whatever_is_tried_first(architecture, folders) -> None:
    writer, checked = writer_and_gate(folders(architecture))
    wrong = "deepseek-coder"
    right = pretokenizers.hints(checked.files)
    passed = gate.find_pre(checked, writer, (wrong, *right))
    assert passed.pre == right[0] == writer.kv_data[0][gate.PRE].value


@pytest.mark.parametrize(
    ("architecture", "wrong"), [("llama3", "gpt-2"), ("qwen2", "smollm"), ("gpt2", "llama-bpe")]
)
def test_a_wrong_pre_tokenizer_is_caught_with_the_line(architecture, wrong, folders) -> None:
    writer, checked = writer_and_gate(folders(architecture))
    gate.set_pre(writer, wrong)
    difference, _ = checked.check(writer)
    assert difference is not None
    assert list(difference.own) == checked.reference.encode(difference.line, difference.special)
    assert difference.own != difference.got


def test_an_unknown_pre_tokenizer_is_refused_in_llama_cpps_words(folders) -> None:
    writer, checked = writer_and_gate(folders("qwen2"))
    gate.set_pre(writer, "no-such-name")
    with pytest.raises(ConversionFailed, match="unknown pre-tokenizer type: 'no-such-name'"):
        checked.check(writer)


@pytest.mark.parametrize("damage", ["reversed", "one lost", "two swapped"])
def test_a_corrupted_merge_list_is_caught(damage, folders) -> None:
    writer, checked = writer_and_gate(folders("gpt2"))
    merges = list(writer.kv_data[0]["tokenizer.ggml.merges"].value)
    if damage == "reversed":
        merges.reverse()
    elif damage == "one lost":
        del merges[3]
    else:
        merges[1], merges[40] = merges[40], merges[1]
    writer.kv_data[0]["tokenizer.ggml.merges"].value = merges
    difference, _ = checked.check(writer)
    assert difference is not None


def test_corrupted_merges_end_in_one_error_with_both_id_lists(folders) -> None:
    writer, checked = writer_and_gate(folders("gpt2"))
    checked.vocabulary.merges = writer.kv_data[0]["tokenizer.ggml.merges"].value = list(
        reversed(checked.vocabulary.merges)
    )
    with pytest.raises(ConversionFailed) as raised:
        gate.find_pre(checked, writer, pretokenizers.hints(checked.files))
    words = str(raised.value)
    assert "under any of llama.cpp's" in words
    assert "the best is" in words
    assert "for the model, [" in words
    assert "in llama.cpp, the first difference at id" in words


def rotated(values: list[Any]) -> list[Any]:
    return [*values[:300], *reversed(values[300:])]


@pytest.mark.parametrize(
    ("key", "damage"),
    [
        ("tokenizer.ggml.scores", rotated),
        ("tokenizer.ggml.tokens", rotated),
        ("tokenizer.ggml.token_type", lambda types: [NORMAL] * len(types)),
    ],
)
def test_corrupted_pieces_are_caught(key, damage, folders) -> None:
    writer, checked = writer_and_gate(folders("mistral"))
    entry = writer.kv_data[0][key]
    entry.value = damage(entry.value)
    difference, _ = checked.check(writer)
    assert difference is not None


def test_a_missing_space_before_texts_is_caught_and_mended_with_a_note(folders, tmp_path) -> None:
    folder = make("mistral", tmp_path / "model", layers=1, hidden=64)
    change(folder, "tokenizer_config.json", lambda value: value.update(add_prefix_space=False))
    writer = gguf.GGUFWriter(None, "llama")
    report = vocabulary.write(folder, writer, gate=True)
    assert writer.kv_data[0]["tokenizer.ggml.add_space_prefix"].value is True
    assert any("add_space_prefix is True" in note for note in report.notes)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3", "phi3"])
def test_a_tokenizer_json_made_of_sentencepiece_is_enough(architecture, tmp_path) -> None:
    folder = make(architecture, tmp_path / "model", layers=1, hidden=64)
    (folder / "tokenizer.model").unlink()
    writer = gguf.GGUFWriter(None, "llama")
    vocabulary.write(folder, writer, gate=True)
    assert writer.kv_data[0]["tokenizer.ggml.model"].value == "llama"
    assert len(set(writer.kv_data[0]["tokenizer.ggml.scores"].value)) > 100


@pytest.mark.parametrize("left", ["tokenizer.json", "tokenizer.model", "both"])
def test_a_unigram_vocabulary_is_written_in_the_t5_form(left, tmp_path) -> None:
    folder = make("llama", tmp_path / "model", layers=1, hidden=64, tokenizer="unigram")
    for name in {"tokenizer.json", "tokenizer.model"} - {left}:
        if left != "both":
            (folder / name).unlink()
    writer = gguf.GGUFWriter(None, "llama")
    report = vocabulary.write(folder, writer, gate=True)
    assert writer.kv_data[0]["tokenizer.ggml.model"].value == "t5"
    assert len(writer.kv_data[0]["tokenizer.ggml.precompiled_charsmap"].value) > 1000
    assert report.lines > 340


def test_without_bytes_sentencepiece_is_refused_since_llama_cpp_would_end(tmp_path, folders) -> None:
    lacking = Vocabulary("llama", ["<unk>", "a"], [2, NORMAL], [0.0, 0.0])
    with pytest.raises(Unsupported, match="no token for the byte 0x00"):
        gate.require_bytes(Files(folders("mistral")), lacking)
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    gate.require_bytes(Files(folders("mistral")), Vocabulary("llama", tokens, [BYTE] * 256, [0.0] * 256))


def test_limits_of_llama_cpp_are_notes_with_their_line(folders) -> None:
    qwen = vocabulary.write(folders("qwen2"), gguf.GGUFWriter(None, "llama"), gate=True)
    assert [note for note in qwen.notes if "Unicode normalization" in note and "first seen in" in note]
    phi = vocabulary.write(folders("phi3"), gguf.GGUFWriter(None, "llama"), gate=True)
    assert any("keeps the spaces beside added tokens" in note for note in phi.notes)
    gpt2 = vocabulary.write(folders("gpt2"), gguf.GGUFWriter(None, "llama"), gate=True)
    assert gpt2.notes == ()


def test_a_bos_that_only_llama_cpp_adds_is_noted(tmp_path) -> None:
    folder = make("llama3", tmp_path / "model", layers=1, hidden=64)
    change(folder, "tokenizer.json", lambda value: value.pop("post_processor"))
    report = vocabulary.write(folder, gguf.GGUFWriter(None, "llama"), gate=True)
    assert any("puts other ids around a text" in note for note in report.notes)


def test_every_name_that_llama_cpp_knows_is_found_in_the_library() -> None:
    known = pretokenizers.known()
    likely = {name for names in pretokenizers.BY_STEPS.values() for name in names}
    likely |= {name for names in pretokenizers.BY_ARCHITECTURE.values() for name in names}
    assert {*likely, *pretokenizers.USUAL} <= set(known)
    assert len(known) > 80


def test_a_name_with_which_llama_cpp_ends_counts_for_nothing_and_stops_no_other() -> None:
    letters = [chr(33 + n) for n in range(90)]
    small = Vocabulary("gpt2", [*letters, "ab"], [NORMAL] * 91, None, ["a b"])
    names = ["whitespace", "gpt-2", "no-such-name", "qwen2"]
    found = trial.agreeing(small, ["a  b"], [[64, 65]], names)
    assert found == {"whitespace": 0, "gpt-2": 1, "no-such-name": 0, "qwen2": 1}


@pytest.mark.parametrize("architecture", ["llama3", "qwen2", "gemma3", "phi3"])
def test_the_oracles_file_reads_texts_as_ours_does(architecture, folders, tmp_path) -> None:
    folder = folders(architecture)
    theirs = tmp_path / "theirs.gguf"
    run_conversions([Conversion(folder, theirs, pre=pre_of(architecture), vocab_only=True)])
    writer, checked = writer_and_gate(folder)
    # llama.cpp goes by a model's name for Phi-3.
    writer.add_name(gguf.GGUFReader(theirs).fields["general.name"].contents())
    with (
        LlamaVocabulary(theirs.read_bytes()) as oracle,
        LlamaVocabulary(pack(vocabulary_entries(writer))) as ours,
    ):
        for special in (True, False):
            assert oracle.encode_lines(checked.lines, special) == ours.encode_lines(checked.lines, special)


def own_split(folder: Path) -> None:
    """A BPE that splits text in a way that no list of ours knows: as GPT-2 does, and two digits at a time."""

    def rewrite(tokenizer: dict[str, Any]) -> None:
        split = {
            "type": "Split",
            "pattern": {"Regex": "[0-9][0-9][0-9]"},
            "behavior": "Isolated",
            "invert": False,
        }
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}

    change(folder, "tokenizer.json", rewrite)


def no_space_before(folder: Path) -> None:
    """A SentencePiece model that puts no space before a text, which only its own file says."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((folder / "tokenizer.model").read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer.json").unlink()
    change(folder, "tokenizer_config.json", lambda value: value.pop("add_prefix_space", None))


@pytest.mark.parametrize(("architecture", "spoil"), [("qwen2", own_split), ("llama", no_space_before)])
def test_what_only_the_gate_finds_is_foretold_by_it(architecture: str, spoil: Any, tmp_path: Path) -> None:
    folder = make(architecture, tmp_path / "model", layers=1, hidden=64)
    spoil(folder)
    found = []
    for through in (False, True):
        writer = gguf.GGUFWriter(None, "llama")
        vocabulary.write(folder, writer, gate=through)
        found.append(pack(vocabulary_entries(writer)))
    assert found[0] == found[1]
    hints = pretokenizers.hints(Files(folder))
    likely = gguf.GGUFWriter(None, "llama")
    families.write_family(Files(folder), likely, lambda: hints[0], lambda number: "")
    assert pack(vocabulary_entries(likely)) != found[0]


def test_tokens_that_llama_cpp_wants_by_the_models_name_are_told(tmp_path: Path) -> None:
    folder = make("llama", tmp_path / "model", layers=1, hidden=64)
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name("my phi-3")
    with pytest.raises(ConversionFailed, match="rename the folder"):
        vocabulary.write(folder, writer, gate=True)
