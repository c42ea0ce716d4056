"""Core ML packages: digits in int8, MobileNetV2's size, and MiniLM on held-out sentences, by the MIL evaluator."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bar import close
from digits import ARTIFACTS, logits, source_logits
from minilm import HELD_OUT, MODEL, SEQUENCE, sentences

import modelport

CALIBRATION = 50
"""Sentences that conversions look at, beside those that are held out."""


def digits(folder: Path) -> float:
    """Points of top-1 that int8 weights and activations lose on the 450 held-out images."""
    with np.load(ARTIFACTS / "held_out.npz") as held:
        images, labels = held["image"], held["labels"]
    out = folder / "digits"
    done = modelport.convert(
        ARTIFACTS / "digits.pt2", target="ios", quant="int8", calibration=str(ARTIFACTS / "images"), out=out
    )
    reference, actual = source_logits(images), logits(out, dict(done.manifest), images, nhwc=False)
    right = [float((scores.argmax(1) == labels).mean()) for scores in (reference, actual)]
    audit = done.manifest["audit"]
    print(
        f"digits int8: {right[1]:.2%} of {len(images)} held-out images right (source {right[0]:.2%}), "
        f"{audit['int8_weight_share']:.1%} of the weight bytes and {audit['int8_mac_share']:.1%} of the products int8"
    )
    return 100 * (right[0] - right[1])


def mobilenet(folder: Path) -> dict[str, float]:
    """The package's size in each scheme over that in fp32."""
    import torch
    import transformers as tf

    torch.manual_seed(0)
    source = folder / "mobilenet"
    tf.MobileNetV2ForImageClassification(tf.MobileNetV2Config(num_labels=1000)).eval().save_pretrained(source)
    sizes = {}
    for quant in ("fp32", "fp16", "int8-weight", "palette4", "int4-weight"):
        # Random weights: what 4 bits lose on them says nothing, so only the size is looked at.
        done = modelport.convert(
            source,
            target="ios",
            quant=quant,
            out=folder / quant,
            samples=5,
            budget="cosine=0",
            keep_samples=False,
        )
        sizes[quant] = float(done.manifest["measured"]["file_bytes"])
        print(
            f"MobileNetV2 {quant:12s} {sizes[quant] / 1e6:6.2f} MB, {sizes[quant] / sizes['fp32']:.3f} of fp32"
        )
    return {quant: size / sizes["fp32"] for quant, size in sizes.items()}


def minilm(folder: Path) -> dict[str, float]:
    """Mean cosine to the source's embeddings on held-out sentences, by scheme."""
    data = folder / "sentences.txt"
    data.write_text("\n".join(sentences()[: CALIBRATION + HELD_OUT]), encoding="utf-8")
    found = {}
    for quant in ("fp16", "int8-weight"):
        done = modelport.convert(
            MODEL,
            target="ios",
            quant=quant,
            calibration=str(data),
            out=folder / f"minilm-{quant}",
            sequence=SEQUENCE,
            samples=CALIBRATION + HELD_OUT,
            held_out=HELD_OUT,
            budget="cosine=0",
        )
        (figures,) = done.manifest["fidelity"]["outputs"].values()
        size: Any = done.manifest["measured"]["file_bytes"]
        print(
            f"MiniLM {quant:12s} cosine {figures['cosine']:.5f} (worst {figures['cosine_min']:.5f}) on "
            f"{done.manifest['fidelity']['samples']} sentences, {size / 1e6:.1f} MB"
        )
        found[quant] = float(figures["cosine"])
    return found


def main() -> None:
    """Measure everything and print the line with figures and bars."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lost, size, cosine = digits(folder), mobilenet(folder), minilm(folder)
    close(
        "ios",
        [
            ("digits int8 top-1 points lost", lost, "<=", 0.5),
            ("MobileNetV2 int8-weight size", size["int8-weight"], "<=", 0.28),
            ("int4-weight size", size["int4-weight"], "<=", 0.17),
            ("MiniLM fp16 cosine", cosine["fp16"], ">=", 0.999),
            ("MiniLM int8-weight cosine", cosine["int8-weight"], ">=", 0.99),
        ],
    )


if __name__ == "__main__":
    main()
