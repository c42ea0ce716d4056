"""GGUF as a source: geometry from the keys, places of the weights, models in parts, and what is no model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gguf_files
from gguf_files import LLAMA
from modelport import sources
from modelport.sources import gguf
from modelport.sources.gguf import values
from modelport.sources.gguf.header import encode, read_header, value
from modelport.sources.gguf.parts import read_model
from modelport.targets import memory
from modelport.targets.errors import ModelportError, SourceUnreadable, Unsupported


def refused(path: Path, words: str, kind: type[ModelportError] = SourceUnreadable) -> ModelportError:
    with pytest.raises(kind, match=words) as caught:
        sources.open_source(path)
    return caught.value


def changed(path: Path, **changes: Any) -> Path:
    """A Llama's file with some keys changed (dots written as __) or, for None, left out."""
    named = {key.replace("__", "."): given for key, given in changes.items()}
    keys = {key: given for key, given in {**LLAMA, **named}.items() if given is not None}
    return gguf_files.write(path, keys)


def test_geometry_comes_from_the_keys(tmp_path: Path) -> None:
    source = sources.open_source(gguf_files.write(tmp_path / "m.gguf"))
    facts = sources.inspect(source)
    llm = facts.llm
    assert (source.kind, source.name, facts.architecture) == ("gguf", "m", "llama")
    assert (llm.layers, llm.hidden, llm.heads, llm.kv_heads, llm.head_dim) == (2, 256, 4, 2, 64)
    assert (llm.intermediate, llm.vocab, llm.context, llm.tied_embeddings) == (512, 48, 2048, False)
    assert facts.notes == ()


def test_the_first_file_need_not_end_in_gguf(tmp_path: Path) -> None:
    assert sources.open_source(gguf_files.write(tmp_path / "sha256-abc")).kind == "gguf"


def test_weights_keep_their_types_and_count_as_weights(tmp_path: Path) -> None:
    named = gguf_files.tensors("q4_k", ffn_down="q6_k", token_embd="q8_0")
    facts = sources.inspect(sources.open_source(gguf_files.write(tmp_path / "m.gguf", LLAMA, named)))
    elements = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 2 * 512 * 256 + 512 * 256) + 2 * 48 * 256
    assert facts.parameters == elements + 5 * 256
    assert facts.bytes_by_dtype["q6_k"] == 2 * 512 * 256 * 6.5625 / 8
    assert "q4_k, q6_k, q8_0" in facts.notes[0]
    counts = memory.count_weights(facts)
    assert (counts.embeddings, counts.vectors, counts.fixed_bytes) == (2 * 48 * 256, 5 * 256, 0)
    assert counts.elements == facts.parameters


def test_experts_are_known_as_such(tmp_path: Path) -> None:
    named = {**gguf_files.tensors(), "blk.0.ffn_gate_exps.weight": ("q4_k", (4, 512, 256))}
    facts = sources.inspect(sources.open_source(gguf_files.write(tmp_path / "m.gguf", LLAMA, named)))
    assert memory.count_weights(facts).experts


def test_embeddings_are_tied_where_there_is_no_head(tmp_path: Path) -> None:
    named = gguf_files.tensors()
    del named["output.weight"]
    source = sources.open_source(gguf_files.write(tmp_path / "m.gguf", LLAMA, named))
    assert sources.inspect(source).llm.tied_embeddings


@pytest.mark.parametrize(
    ("key", "given", "figure", "expected"),
    [
        ("llama.attention.key_length", 96, "head_dim", 96),
        ("llama.attention.head_count_kv", [2, 0], "kv_heads", 2),
        ("llama.attention.head_count", [4, 8], "heads", 8),
        ("llama.attention.head_count_kv", None, "kv_heads", 4),
        ("llama.feed_forward_length", [512, 256], "intermediate", 512),
        ("llama.feed_forward_length", None, "intermediate", 1024),
        ("llama.context_length", (values.UINT64, 1 << 20), "context", 1 << 20),
    ],
)
def test_keys_may_be_lists_or_left_out(
    tmp_path: Path, key: str, given: Any, figure: str, expected: int
) -> None:
    source = sources.open_source(changed(tmp_path / "m.gguf", **{key.replace(".", "__"): given}))
    assert getattr(sources.inspect(source).llm, figure) == expected


def test_the_vocabulary_may_be_a_number(tmp_path: Path) -> None:
    path = changed(tmp_path / "m.gguf", tokenizer__ggml__tokens=None, llama__vocab_size=48)
    assert sources.inspect(sources.open_source(path)).llm.vocab == 48


@pytest.mark.parametrize(
    ("key", "given", "words"),
    [
        ("general.architecture", None, "m.gguf: general.architecture: this field is missing"),
        ("general.architecture", 7, "m.gguf: general.architecture: a short text is expected"),
        ("general.architecture", "../x", "general.architecture: '../x' is no name"),
        ("general.architecture", "qwen2", "m.gguf: qwen2.embedding_length: this field is missing"),
        ("llama.block_count", None, "m.gguf: llama.block_count: this field is missing"),
        ("llama.block_count", 3, "llama.block_count: 3 layers are declared, and layer 2 has no tensors"),
        ("llama.block_count", 1 << 31, "llama.block_count: 2147483648 is not between"),
        ("llama.embedding_length", 0, "llama.embedding_length: 0 is not between"),
        ("llama.embedding_length", 128, r"token_embd.weight: shape \[48, 256\], where .* \[48, 128\]"),
        ("llama.attention.head_count", None, "llama.attention.head_count: this field is missing"),
        ("llama.attention.head_count", "4", "llama.attention.head_count: an integer is expected"),
        ("llama.attention.head_count_kv", [2.5, 1.5], "head_count_kv: integers from 0"),
        ("llama.context_length", None, "llama.context_length: this field is missing"),
        ("tokenizer.ggml.model", None, "m.gguf: tokenizer.ggml.model: this field is missing"),
        ("tokenizer.ggml.tokens", ["a"], r"token_embd.weight: shape \[48, 256\], where .* \[1, 256\]"),
        ("tokenizer.ggml.tokens", None, "llama.vocab_size: this field is missing"),
        ("general.type", "imatrix", "this file is an importance matrix .* Give it with --imatrix"),
        ("general.type", "adapter", "this file is an adapter"),
        ("general.type", "mmproj", "this file is the image or sound part"),
        ("general.type", "poem", "this file is of kind 'poem'"),
    ],
)
def test_keys_that_are_missing_or_contradict_the_tensors_are_refused(
    tmp_path: Path, key: str, given: Any, words: str
) -> None:
    refused(changed(tmp_path / "m.gguf", **{key.replace(".", "__"): given}), words)


def test_models_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    path = changed(tmp_path / "m.gguf", llama__attention__causal=False)
    refused(path, "llama is no decoder-only language model", Unsupported)
    refused(changed(path, general__architecture="t5"), "t5 is no decoder-only", Unsupported)


def test_a_vocabulary_alone_is_no_model(tmp_path: Path) -> None:
    refused(gguf_files.write(tmp_path / "m.gguf", LLAMA, {}), "a vocabulary without weights")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    named = gguf_files.tensors()
    del named["token_embd.weight"]
    refused(gguf_files.write(tmp_path / "m.gguf", LLAMA, named), "token_embd.weight is missing")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf")
    os.truncate(path, path.stat().st_size - 1024)
    refused(path, r"m\.gguf: .*: ends at byte")


def test_bytes_behind_the_tensors_are_a_note(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf")
    with path.open("ab") as stream:
        stream.write(b"x" * 100)
    assert "100 bytes behind the tensors" in sources.inspect(sources.open_source(path)).notes[0]


def test_places_point_at_each_tensors_bytes(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf", LLAMA, gguf_files.tensors("q8_0"))
    header = read_header(path)
    with path.open("r+b") as stream:
        for number, info in enumerate(header.tensors):
            stream.seek(header.data + info.offset)
            stream.write(bytes([number]))
    found = gguf.places(path)
    assert list(found) == [info.name for info in header.tensors]
    assert found["blk.0.ffn_up.weight"].shape == (512, 256)
    assert found["blk.0.ffn_up.weight"].dtype == "q8_0"
    for number, place in enumerate(found.values()):
        content = place.file.read_bytes()[place.begin : place.begin + place.nbytes]
        assert content[0] == number
        assert len(content) == place.nbytes


def split(folder: Path, count: int = 3, **changes: Any) -> list[Path]:
    """A Llama in parts as llama-gguf-split writes them: all keys in the first one."""
    folder.mkdir(exist_ok=True)
    named = list(gguf_files.tensors().items())
    paths = []
    for number in range(count):
        own = {
            "split.no": (values.UINT16, number),
            "split.count": (values.UINT16, count),
            "split.tensors.count": (values.INT32, len(named)),
            **{key.replace("__", "."): given for key, given in changes.items()},
        }
        keys = {**LLAMA, **own} if number == 0 else own
        path = folder / f"m-{number + 1:05}-of-{count:05}.gguf"
        paths.append(gguf_files.write(path, keys, dict(named[number::count])))
    return paths


def test_a_model_in_parts_is_one_model(tmp_path: Path) -> None:
    paths = split(tmp_path / "m")
    source = sources.open_source(paths[0])
    whole = sources.inspect(sources.open_source(gguf_files.write(tmp_path / "whole.gguf")))
    facts = sources.inspect(source)
    assert source.files == tuple(paths)
    assert {tensor.name: tensor for tensor in facts.tensors} == {t.name: t for t in whole.tensors}
    assert {place.file for place in gguf.places(paths[0]).values()} == set(paths)
    assert not [entry.key for entry in read_model(paths[0]).entries if entry.key.startswith("split.")]


def test_parts_that_are_missing_or_disagree_are_refused(tmp_path: Path) -> None:
    paths = split(tmp_path / "m")
    refused(paths[1], r"this is part 2 of 3\. Name the first part, .*m-00001-of-00003.gguf")
    other = paths[0].rename(tmp_path / "m" / "m.gguf")
    refused(other, "this is part 1 of 3, and its name does not say so.*llama-gguf-split --merge")
    other.rename(paths[0])
    third = paths[2].rename(tmp_path / "third")
    refused(paths[0], "of 3 parts 1 are missing, as m-00003-of-00003.gguf")
    paths[2].symlink_to(third)
    refused(paths[0], "leads out of the model's folder by a link")
    paths[2].unlink()
    paths[2].write_bytes(paths[1].read_bytes())
    refused(paths[0], "m-00003-of-00003.gguf: split.no: 1 stands here, and 2 follows")
    refused(split(tmp_path / "n", split__tensors__count=7)[0], "7 tensors are declared")
    refused(split(tmp_path / "o", split__count="3")[0], "split.count: an integer is expected")


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path / "m", 2)
    keys = {"split.no": (values.UINT16, 1), "split.count": (values.UINT16, 2)}
    gguf_files.write(paths[1], keys, {"token_embd.weight": ("float16", (48, 256))})
    refused(paths[0], "m-00002-of-00002.gguf: token_embd.weight: stands in two parts")


def test_opening_imports_no_framework(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf")
    code = (
        "import sys\nfrom modelport import sources\nsources.inspect(sources.open_source(sys.argv[1]))\n"
        "print([m for m in ('numpy', 'torch', 'gguf', 'llama_cpp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_ggufs_own_writer_and_reader_agree(tmp_path: Path) -> None:
    import gguf as reference
    import numpy as np

    path = tmp_path / "m.gguf"
    writer = reference.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_rope_freq_base(1e4)
    writer.add_token_list(["<s>", "日本", "b"])
    writer.add_token_scores([0.0, -1.5, -2.5])
    writer.add_bool("flag", True)
    writer.add_tensor("a.weight", np.arange(24, dtype=np.float32).reshape(3, 8))
    writer.add_tensor("b.weight", np.arange(6, dtype=np.float16).reshape(1, 6))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    known = {entry.key: value(entry) for entry in header.entries}
    assert known["tokenizer.ggml.tokens"] == ["<s>", "日本", "b"]
    assert known["tokenizer.ggml.scores"] == [0.0, -1.5, -2.5]
    assert (known["llama.context_length"], known["flag"]) == (2048, True)
    assert [info.shape for info in header.tensors] == [(3, 8), (1, 6)]
    content = path.read_bytes()
    first = header.tensors[0]
    begin = header.data + first.offset
    assert np.frombuffer(content[begin : begin + 96], np.float32).tolist() == list(range(24))

    written = tmp_path / "again.gguf"
    written.write_bytes(encode(header.entries, header.tensors) + content[header.data :])
    fields = reference.GGUFReader(written).fields
    assert fields["llama.context_length"].contents() == 2048
    assert fields["tokenizer.ggml.tokens"].contents() == ["<s>", "日本", "b"]


@pytest.mark.slow
def test_types_are_ggmls_own() -> None:
    import ctypes

    from modelport.exporters.runtimes.gguf import library
    from modelport.sources.gguf.types import TYPES

    ggml = library.ggml()
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    plain = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64"}
    for kind in range(64):
        if kind >= 43 or ggml.ggml_blck_size(kind) == 0:
            assert kind not in TYPES
            continue
        title = ggml.ggml_type_name(kind).decode().lower()
        name = plain.get(title, f"int{title[1:]}" if title in ("i8", "i16", "i32", "i64") else title)
        assert TYPES[kind] == (name, ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind))
