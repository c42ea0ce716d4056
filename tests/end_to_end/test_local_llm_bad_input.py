"""Bad language models through the command line: one clear error, a documented exit code, and no output."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gguf_files
import refusals
import tiny_llms
from modelport.exporters.job import Job
from modelport.exporters.runtimes import gguf as runtime

pytestmark = pytest.mark.slow

SHARD = "model-00002-of-00002.safetensors"
NAN, INFINITE, HUGE = 0x7FC0, 0x7F80, 0x4974
"""bfloat16 values; the last one is about a million, beyond float16."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    folder.mkdir()
    return tiny_llms.make("llama3", folder, shards=2, layers=2)


@pytest.fixture(scope="module")
def low_bit(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a GGUF of low-bit weights, by the exporter alone."""
    folder = tmp_path_factory.mktemp("low")
    job = Job(
        (), "causal-lm", str(sound), "local-llm", "gguf", "q2_k", str(folder), str(folder),
        options={"threads": 1},
    )  # fmt: skip
    runtime.header(job, lambda *_: None)
    runtime.export(job, lambda *_: None)
    return folder / "model.gguf"


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def refused(path: Path, code: int, *words: str, options: tuple[str, ...] = ()) -> str:
    """See `refusals.refused`."""
    return refusals.refused(path, code, *words, target="local-llm", quant="q4_k_m", options=options)


def edit(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def header_of(path: Path) -> tuple[dict[str, Any], int]:
    """A shard's header and the first byte of its data."""
    with path.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        return json.loads(stream.read(length)), 8 + length


def spoil(folder: Path, bits: int) -> tuple[str, str]:
    """Write one bfloat16 value into the middle of a matrix; its file and name."""
    path = folder / SHARD
    header, begin = header_of(path)
    name = next(name for name in sorted(header) if name.endswith("down_proj.weight"))
    first, last = header[name]["data_offsets"]
    with path.open("r+b") as stream:
        stream.seek(begin + (first + last) // 4 * 2)
        stream.write(struct.pack("<H", bits))
    return path.name, name


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a shard anew with a changed header, its data as it was."""
    header, begin = header_of(path)
    data = path.read_bytes()[begin:]
    change(header)
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def test_the_model_that_is_damaged_here_is_sound(sound: Path, tmp_path: Path) -> None:
    check = Path(sys.executable).with_name("modelport")
    done = subprocess.run(
        [check, "check", sound, "--target", "local-llm"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_truncated_shard(model: Path) -> None:
    os.truncate(model / SHARD, (model / SHARD).stat().st_size - 1)
    refused(model, 4, SHARD, "ends at byte")


def test_a_missing_shard(model: Path) -> None:
    (model / SHARD).unlink()
    refused(model, 4, "weight_map", f"'{SHARD}' is missing")


def test_an_index_that_points_outside(model: Path) -> None:
    (model / SHARD).rename(model.parent / SHARD)
    index = model / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(SHARD, f"../{SHARD}"))
    refused(model, 4, "model.safetensors.index.json: weight_map", "leads out of the model's folder")


def test_a_link_that_points_outside(model: Path) -> None:
    (model / SHARD).rename(model.parent / SHARD)
    (model / SHARD).symlink_to(model.parent / SHARD)
    refused(model, 4, SHARD, "leads out of the model's folder by a link")


def test_a_shape_against_the_config(model: Path) -> None:
    edit(model / "config.json", intermediate_size=513)
    refused(model, 4, "mlp.", "where config.json implies")


@pytest.mark.parametrize(
    ("bits", "options"),
    [(NAN, ()), (INFINITE, ()), (NAN, ("--two-step",)), (NAN, ("--via", "f16"))],
    ids=["nan", "infinite", "two-step", "via"],
)
def test_weights_that_are_no_numbers(model: Path, bits: int, options: tuple[str, ...]) -> None:
    file, name = spoil(model, bits)
    refused(model, 4, f"{file}: {name}", "NaN or infinite", options=options)


def test_weights_beyond_float16(model: Path) -> None:
    file, name = spoil(model, HUGE)
    refused(model, 6, f"{file}: {name}", "float16", options=("--via", "f16"))


def test_an_unknown_tokenizer(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "[aeiou]|."}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(model, 6, "do not agree under any of", "Hello World")


def test_a_tokenizer_of_a_kind_that_llama_cpp_lacks(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(model, 5, "WordLevel")


@pytest.mark.parametrize(("content", "code"), [("", 4), ('{"model": ', 4), ("[]", 4), ("{}", 4)])
def test_a_damaged_tokenizer(model: Path, content: str, code: int) -> None:
    (model / "tokenizer.json").write_text(content)
    refused(model, code, "tokenizer.json")


def test_no_tokenizer(model: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"):
        (model / name).unlink(missing_ok=True)
    refused(model, 4, "no tokenizer")


def test_an_architecture_that_is_not_covered(model: Path) -> None:
    edit(model / "config.json", architectures=["MambaForCausalLM"], model_type="mamba")
    refused(model, 5, "MambaForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel")


def test_a_checkpoint_that_is_quantized_already(model: Path) -> None:
    edit(model / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refused(model, 5, "quantized already")


def test_weights_in_a_type_that_is_not_known_here(model: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        name = next(name for name in header if name.endswith("down_proj.weight"))
        header[name]["dtype"] = "F8_E4M3"
        size = math.prod(header[name]["shape"])
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = [begin, begin + size]
        for entry in header.values():
            if entry.get("data_offsets", [0])[0] >= end:
                entry["data_offsets"] = [offset - size for offset in entry["data_offsets"]]

    rewrite(model / SHARD, change)
    edit(
        model / "config.json",
        intermediate_size=2 * json.loads((model / "config.json").read_text())["intermediate_size"],
    )
    refused(model, 4)


def test_a_weight_that_nobody_asked_for(model: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        header["model.layers.0.self_attn.extra.weight"] = {
            "dtype": "BF16", "shape": [1], "data_offsets": [end, end + 2]
        }  # fmt: skip

    rewrite(model / SHARD, change)
    with (model / SHARD).open("ab") as stream:
        stream.write(b"\0\0")
    refused(model, 5, "model.layers.0.self_attn.extra.weight")


def test_a_truncated_gguf(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf")
    os.truncate(path, path.stat().st_size - 4096)
    refused(path, 4, "m.gguf", "ends at byte")


def test_a_gguf_whose_keys_contradict_its_tensors(tmp_path: Path) -> None:
    keys = {**gguf_files.LLAMA, "llama.block_count": 7}
    refused(gguf_files.write(tmp_path / "m.gguf", keys), 4, "m.gguf: llama.block_count: 7 layers")


def test_a_low_bit_gguf_without_leave(low_bit: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(low_bit, tmp_path / "m.gguf"))
    refused(path, 5, "m.gguf", "q2_k", "--requantize")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no matrix at all"], ids=["empty", "cut", "text"])
def test_an_importance_matrix_that_is_none(model: Path, content: bytes) -> None:
    matrix = model.parent / "m.imatrix.gguf"
    matrix.write_bytes(content)
    refused(model, 2, "m.imatrix.gguf", options=("--imatrix", str(matrix)))
