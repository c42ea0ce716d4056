"""Hugging Face folders that are damaged, lead outside or hold what is not supported."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_folders import BERT, refused, shard, write
from modelport import sources
from modelport.sources import huggingface
from modelport.sources.huggingface import checkpoint
from modelport.targets.errors import Unsupported


def test_missing_weights_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT, **{"layer.1.output.dense.weight": None})
    refused(folder, r"model.safetensors: weights that .* missing: bert.encoder.layer.1.output.dense.weight")


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT, word_embeddings=(19, 8))
    refused(folder, r"word_embeddings.weight: shape \[19, 8\], where config.json implies \[20, 8\]")


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT)
    (tmp_path / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for path in (
        "../outside.safetensors",
        str(tmp_path / "outside.safetensors"),
        "a/../../outside.safetensors",
    ):
        write(folder, BERT)
        shard(folder, lambda names, path=path: names.update(dict.fromkeys(names, path)))
        refused(folder, r"weight_map\..*: .* leads out of the model's folder")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT)
    outside = (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(outside)
    refused(folder, "leads out of the model's folder by a link")


def test_a_cache_links_into_its_own_blobs(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b/snapshots/1234"
    snapshot.mkdir(parents=True)
    write(snapshot, BERT)
    (tmp_path / "models--a--b/blobs").mkdir()
    blob = (snapshot / "model.safetensors").rename(tmp_path / "models--a--b/blobs/abc")
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/abc"))
    assert sources.open_source(snapshot).kind == "huggingface"
    other = blob.rename(tmp_path / "abc")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(other)
    refused(snapshot, "by a link")


def test_a_fifo_for_weights_is_refused_and_not_read(tmp_path: Path) -> None:
    import os

    folder = write(tmp_path / "m", BERT)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    refused(folder, "not a regular file")


def test_the_index_must_tell_the_truth(tmp_path: Path) -> None:
    folder = shard(write(tmp_path / "m", BERT), lambda names: names.update(ghost="model-0.safetensors"))
    refused(folder, "model-0.safetensors: 'ghost' is not in this shard")
    shard(write(folder, BERT), lambda names: names.update(dict.fromkeys(names, "model-9.safetensors")))
    refused(folder, "'model-9.safetensors' is missing")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**BERT, "hidden_size": "8"}, "config.json: hidden_size: an integer is expected, not text"),
        ({**BERT, "hidden_size": [8]}, "config.json: hidden_size: an integer is expected, not a list"),
        ({**BERT, "hidden_size": 1 << 70}, "config.json: hidden_size: .* is not between"),
        ({**BERT, "num_hidden_layers": -1}, "config.json: num_hidden_layers: -1 is not between"),
        ({**BERT, "num_hidden_layers": 10**9}, "config.json: num_hidden_layers"),
        ({**BERT, "hidden_size": 9}, "config.json: hidden_size: 9 is no multiple of 2 heads"),
        ({**BERT, "architectures": "BertModel"}, "config.json: architectures: a list of class names"),
        ({**BERT, "architectures": ["os.system"]}, "config.json: architectures: a list of class names"),
        ({**BERT, "model_type": 3}, "config.json: model_type: a short text is expected"),
        ("[1]", "config.json: a JSON object is expected, not a list"),
        ("{", "config.json: not valid JSON"),
        ('{"hidden_size": 1, "hidden_size": 2}', "config.json: the key 'hidden_size' stands twice"),
        ('{"a":' + "[" * 100_000, "config.json: nested too deeply"),
        (" " * (9 << 20), "config.json: larger than"),
    ],
)
def test_a_config_of_wrong_types_is_refused_by_field(tmp_path: Path, config: Any, words: str) -> None:
    folder = write(tmp_path / "m", BERT)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    refused(folder, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["BertForPreTraining"]}, "the head of BertForPreTraining is not supported"),
        ({"is_encoder_decoder": True}, "encoder-decoder models are not supported"),
        ({"quantization_config": {"quant_method": "bnb"}}, "quantized already"),
    ],
)
def test_models_that_would_lose_a_part_are_not_supported(tmp_path: Path, change: Any, words: str) -> None:
    folder = write(tmp_path / "m", BERT)
    (folder / "config.json").write_text(json.dumps({**BERT, **change}))
    refused(folder, words, Unsupported)


def test_code_from_elsewhere_is_stripped_and_noted(tmp_path: Path) -> None:
    config = {
        **BERT,
        "auto_map": {"AutoModel": "evil.Model"},
        "_attn_implementation": "kernels-community/evil",
    }
    folder = write(tmp_path / "m", config)
    facts = sources.inspect(sources.open_source(folder))
    assert "_attn_implementation, auto_map is ignored" in facts.notes[0]
    assert checkpoint.clean_config(folder) == BERT


def test_weights_under_another_name_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT)
    (folder / "config.json").write_text(json.dumps({**BERT, "transformers_weights": "other.safetensors"}))
    refused(folder, "config.json: transformers_weights: names another weight file")


def test_integers_in_place_of_weights_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content.replace(b'"F32"', b'"I32"', 1))
    refused(folder, "word_embeddings.weight: stored as int32")


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    refused(folder, "adapter_config.json: the folder holds an adapter")


def test_broken_tokenizer_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT)
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "tokenizer.json: not valid JSON")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "vocab.txt").write_text("[PAD]")
    source = sources.open_source(folder)
    assert [file.name for file in huggingface.preprocessing_files(source)] == ["tokenizer.json", "vocab.txt"]
