"""Well-known architectures with random weights: float artifacts compute what the source computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import modelport

pytestmark = pytest.mark.slow


def save(folder: Path, name: str) -> Path:
    """A Hugging Face directory of a small model of this family, seeded."""
    import torch
    import transformers as tf

    torch.manual_seed(0)
    makers: dict[str, Any] = {
        "bert": lambda: tf.BertModel(
            tf.BertConfig(
                hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=500
            )
        ),
        "vit": lambda: tf.ViTForImageClassification(
            tf.ViTConfig(
                hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=64,
                patch_size=16, num_labels=10,
            )
        ),
        "resnet18": lambda: tf.ResNetForImageClassification(
            tf.ResNetConfig(
                depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", embedding_size=64,
                num_labels=10
            )
        ),
        "mobilenetv2": lambda: tf.MobileNetV2ForImageClassification(
            tf.MobileNetV2Config(image_size=96, depth_multiplier=0.5, num_labels=10)
        ),
    }  # fmt: skip
    model = makers[name]().eval()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("target", ["android", "server-cpu"])
@pytest.mark.parametrize("name", ["bert", "vit", "resnet18", "mobilenetv2"])
def test_float_artifacts_compute_the_same(tmp_path: Path, name: str, target: str) -> None:
    source = save(tmp_path / name, name)
    done = modelport.convert(
        source, target=target, quant="fp32", out=tmp_path / "out", sequence=16, samples=8
    )
    for figures in done.manifest["fidelity"]["outputs"].values():
        assert figures["exact"] or figures["sqnr_db"] > 80
    # The auditor of ONNX files takes 128 tokens for a free axis; a .tflite file has the 16 that were asked for.
    facts = modelport.inspect(source, sequence=128 if target == "server-cpu" else 16)
    expected = sum(
        op.flops or 0 for op in facts.ops if op.op_class in ("conv", "depthwise", "gemm", "matmul")
    )
    assert 2 * sum(done.manifest["audit"]["macs"].values()) == pytest.approx(expected, rel=0.02)
