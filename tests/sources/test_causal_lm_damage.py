"""Damaged and hostile causal-LM folders: one clear error each, before any weight or framework is touched."""

from __future__ import annotations

import json
import math
import os
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from modelport import sources
from modelport.sources.files import jsonfile
from modelport.sources.huggingface import checkpoint, decoders
from modelport.targets.errors import SourceUnreadable

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 50,
    "max_position_embeddings": 512,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", SIZES),
    "mistral": ("MistralForCausalLM", SIZES),
    "smollm3": ("SmolLM3ForCausalLM", SIZES),
    "qwen2": ("Qwen2ForCausalLM", SIZES),
    "qwen3": ("Qwen3ForCausalLM", {**SIZES, "head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", {**SIZES, "head_dim": 16}),
    "gemma3_text": ("Gemma3ForCausalLM", {**SIZES, "head_dim": 16}),
    "phi3": ("Phi3ForCausalLM", SIZES),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 8, "n_positions": 512, "vocab_size": 50}),
}  # fmt: skip
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

Shapes = dict[str, tuple[int, ...]]


def config_of(model_type: str) -> dict[str, Any]:
    name, sizes = FAMILIES[model_type]
    return {"architectures": [name], "model_type": model_type, **sizes}


def shapes_of(config: Mapping[str, Any]) -> Shapes:
    fields = jsonfile.Fields(config, "config.json")
    return decoders.expected(fields, decoders.geometry(fields, "x"))


def save(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> None:
    """A safetensors file of zeros."""
    entries, position = {}, 0
    for name, shape in shapes.items():
        end = position + 2 * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(position))


def make(folder: Path, model_type: str = "llama") -> Path:
    """A sound checkpoint in two shards."""
    folder.mkdir(parents=True)
    config = config_of(model_type)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    named = list(shapes_of(config).items())
    weight_map = {}
    for index, file in enumerate(SHARDS):
        part = dict(named[index::2])
        save(folder / file, part)
        weight_map.update(dict.fromkeys(part, file))
    write_index(folder, {"metadata": {}, "weight_map": weight_map})
    return folder


def write_index(folder: Path, index: Any) -> None:
    (folder / checkpoint.INDEX).write_text(json.dumps(index))


def weight_map(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / checkpoint.INDEX).read_text())["weight_map"]
    return found


def point(folder: Path, target: str) -> None:
    """Let the index say that one tensor lies in `target`."""
    changed = weight_map(folder)
    changed["model.norm.weight"] = target
    write_index(folder, {"weight_map": changed})


def refused(folder: Path, words: str) -> SourceUnreadable:
    begin = time.perf_counter()
    with pytest.raises(SourceUnreadable, match=words) as caught:
        sources.open_source(folder)
    assert time.perf_counter() - begin < 2
    assert caught.value.where
    return caught.value


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_sound_folder_is_opened_and_every_weight_has_its_place(tmp_path: Path, model_type: str) -> None:
    folder = make(tmp_path / "m", model_type)
    source = sources.open_source(folder)
    assert source.kind == "causal-lm"
    found = checkpoint.places(folder)
    assert {name: place.shape for name, place in found.items()} == shapes_of(config_of(model_type))
    for place in found.values():
        assert place.nbytes == 2 * math.prod(place.shape)
        assert place.begin + place.nbytes <= place.file.stat().st_size
    assert sum(place.nbytes for place in found.values()) == sources.inspect(source).weight_bytes


def test_places_point_at_each_tensors_bytes(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    places = checkpoint.places(folder)
    for number, place in enumerate(places.values()):
        with place.file.open("r+b") as stream:
            stream.seek(place.begin)
            stream.write(bytes([number]) * place.nbytes)
    for number, place in enumerate(checkpoint.places(folder).values()):
        content = place.file.read_bytes()[place.begin : place.begin + place.nbytes]
        assert content == bytes([number]) * place.nbytes


@pytest.mark.parametrize("size", [0, 7, 100, -1, -64])
def test_a_truncated_shard_is_named(tmp_path: Path, size: int) -> None:
    shard = make(tmp_path / "m") / SHARDS[1]
    os.truncate(shard, size if size >= 0 else shard.stat().st_size + size)
    refused(shard.parent, f"{SHARDS[1]}: .*(ends at byte|a header of)")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (folder / SHARDS[1]).unlink()
    refused(folder, f"weight_map.*'{SHARDS[1]}' is missing.*Download the model again")


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (folder / checkpoint.INDEX).unlink()
    refused(folder, f"{SHARDS[0]}.* without model.safetensors or {checkpoint.INDEX}")


@pytest.mark.parametrize(
    "target",
    [
        "../outside.safetensors", "sub/../../outside.safetensors", "/outside.safetensors",
        "..\\outside.safetensors", "C:\\outside.safetensors", "\\\\host\\share\\outside.safetensors",
    ],
)  # fmt: skip
def test_an_index_that_names_a_file_outside_is_refused(tmp_path: Path, target: str) -> None:
    folder = make(tmp_path / "m")
    save(tmp_path / "outside.safetensors", {"model.norm.weight": (64,)})
    point(folder, target)
    refused(folder, r"index\.json: weight_map\.model\.norm\.weight: .* leads out of the model's folder")


def link_file(folder: Path, outside: Path) -> None:
    (folder / SHARDS[1]).rename(outside / SHARDS[1])
    (folder / SHARDS[1]).symlink_to(outside / SHARDS[1])


def link_relative(folder: Path, outside: Path) -> None:
    (folder / SHARDS[1]).rename(outside / SHARDS[1])
    (folder / SHARDS[1]).symlink_to(Path("..") / outside.name / SHARDS[1])


def link_twice(folder: Path, outside: Path) -> None:
    link_file(folder, outside)
    (folder / "inner").symlink_to(folder / SHARDS[1])
    (folder / SHARDS[0]).unlink()
    (folder / SHARDS[0]).symlink_to("inner")


def link_folder(folder: Path, outside: Path) -> None:
    save(outside / "part.safetensors", {"model.norm.weight": (64,)})
    (folder / "parts").symlink_to(outside)
    point(folder, "parts/part.safetensors")


@pytest.mark.parametrize("link", [link_file, link_relative, link_twice, link_folder])
def test_a_shard_that_leads_outside_by_a_link_is_refused(
    tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    folder = make(tmp_path / "m")
    (tmp_path / "outside").mkdir()
    link(folder, tmp_path / "outside")
    refused(folder, "weight_map.* leads out of the model's folder by a link")


@pytest.mark.parametrize("name", ["config.json", checkpoint.INDEX, "tokenizer.json"])
def test_any_other_file_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "m")
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    refused(folder, f"{name}.*leads out of the model's folder by a link")


def test_a_shard_that_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (folder / SHARDS[0]).unlink()
    os.mkfifo(folder / SHARDS[0])
    refused(folder, f"'{SHARDS[0]}' is not a regular file")
    (folder / SHARDS[0]).unlink()
    (folder / SHARDS[0]).mkdir()
    refused(folder, f"'{SHARDS[0]}' is not a regular file")


def test_a_link_to_nothing_and_a_link_in_a_circle_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (folder / SHARDS[0]).unlink()
    (folder / SHARDS[0]).symlink_to("nowhere.safetensors")
    refused(folder, f"'{SHARDS[0]}' is missing")
    (folder / SHARDS[0]).unlink()
    (folder / SHARDS[0]).symlink_to(SHARDS[0])
    refused(folder, f"'{SHARDS[0]}' cannot be reached")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([], "a JSON object is expected"),
        ({}, "weight_map: an object of tensor name to file is expected"),
        ({"weight_map": {}}, "weight_map: an object of tensor name to file is expected"),
        ({"weight_map": {"a": 1}}, "weight_map.a: '1' is not a .safetensors file"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "weight_map.a: .* is not a .safetensors file"),
        ({"weight_map": {"a": SHARDS[0]}}, f"{SHARDS[0]}: 'a' is not in this shard"),
        ({"weight_map": {"a": "x\0.safetensors"}}, "is not a file name"),
    ],
)
def test_an_index_of_another_form_is_refused(tmp_path: Path, index: Any, words: str) -> None:
    folder = make(tmp_path / "m")
    write_index(folder, index)
    refused(folder, words)


def test_an_index_that_is_no_json_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    index = folder / checkpoint.INDEX
    index.write_text(index.read_text()[:-20])
    refused(folder, f"{checkpoint.INDEX}: not valid JSON")
    index.write_text('{"weight_map": ' + "[" * 100_000)
    refused(folder, f"{checkpoint.INDEX}: nested too deeply")
    index.write_text('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}')
    refused(folder, "the key 'a' stands twice")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    shapes = shapes_of(config_of("llama"))
    names = [name for name, file in weight_map(folder).items() if file == SHARDS[1]]
    save(folder / SHARDS[1], {name: shapes[name] for name in [*names, "model.embed_tokens.weight"]})
    refused(folder, f"{SHARDS[1]}: 'model.embed_tokens.weight' stands in two shards")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_tensor_of_another_shape_is_named(tmp_path: Path, model_type: str) -> None:
    folder = make(tmp_path / "m", model_type)
    shapes = shapes_of(config_of(model_type))
    first = "transformer.h.0." if model_type == "gpt2" else "model.layers.0."
    checked = [name for name in shapes if ".1." not in name]
    assert any(name.startswith(first) for name in checked)
    for name in checked:
        file = weight_map(folder)[name]
        names = [other for other, held in weight_map(folder).items() if held == file]
        wrong = (*shapes[name][:-1], shapes[name][-1] + 1)
        save(folder / file, {**{other: shapes[other] for other in names}, name: wrong})
        error = refused(folder, "where config.json implies")
        assert error.where.endswith(name)
        assert f"shape {list(wrong)}" in error.fact
        save(folder / file, {other: shapes[other] for other in names})
    sources.open_source(folder)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_missing_tensor_is_named(tmp_path: Path, model_type: str) -> None:
    folder = make(tmp_path / "m", model_type)
    shapes = shapes_of(config_of(model_type))
    for name in shapes:
        mapped = {other: SHARDS[0] for other in shapes if other != name}
        save(folder / SHARDS[0], {other: shapes[other] for other in mapped})
        write_index(folder, {"weight_map": mapped})
        refused(folder, f"weights that config.json implies are missing: {name}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab_size": 51}, r"embed_tokens.weight: shape \[50, 64\], .* implies \[51, 64\]"),
        ({"hidden_size": 128}, r"embed_tokens.weight: shape \[50, 64\], .* implies \[50, 128\]"),
        ({"num_key_value_heads": 4}, r"k_proj.weight: shape \[16, 64\], .* implies \[32, 64\]"),
        ({"head_dim": 16}, r"q_proj.weight: shape \[64, 64\], .* implies \[128, 64\]"),
        ({"intermediate_size": 97}, r"gate_proj.weight: shape \[96, 64\], .* implies \[97, 64\]"),
        ({"num_hidden_layers": 3}, "are missing: model.layers.2."),
        ({"attention_bias": True}, "are missing: model.layers.0.self_attn.q_proj.bias"),
        ({"num_hidden_layers": -1}, "config.json: num_hidden_layers: -1 is not between"),
        ({"hidden_size": 1e400}, "config.json: hidden_size"),
        ({"vocab_size": 1 << 60}, "config.json: vocab_size"),
        (
            {"num_attention_heads": [8]},
            "config.json: num_attention_heads: an integer is expected, not a list",
        ),
        ({"architectures": "LlamaForCausalLM"}, "config.json: architectures: a list of class names"),
        ({"architectures": ["os.system"]}, "config.json: architectures: a list of class names"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    folder = make(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({**config_of("llama"), **change}))
    refused(folder, words)


@pytest.mark.parametrize("dtype", ["I16", "U16"])
def test_integers_in_place_of_weights_are_refused(tmp_path: Path, dtype: str) -> None:
    folder = make(tmp_path / "m")
    shapes = shapes_of(config_of("llama"))
    names = [name for name, file in weight_map(folder).items() if file == SHARDS[0]]
    save(folder / SHARDS[0], {name: shapes[name] for name in names}, dtype)
    refused(folder, f"stored as {'u' * (dtype[0] == 'U')}int16")


def test_a_tokenizer_that_is_no_json_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (folder / "tokenizer.json").write_text('{"model": ')
    refused(folder, "tokenizer.json: not valid JSON")


def test_an_adapter_beside_the_weights_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "adapter_config.json: the folder holds an adapter")
