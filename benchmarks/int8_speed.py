"""How much faster static int8 is than fp32 in ONNX Runtime: well-known architectures, random weights, one thread."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bar import close, interleaved, medians

import modelport
from modelport.verification import runners

ROUNDS = 25
FASTER = 1.2
"""Times: below it, int8 is not worth its loss on this CPU. Wants AVX512-VNNI, AVX-VNNI or Arm's dot product."""


def networks() -> dict[str, Any]:
    """Each architecture in its usual size, for 224 × 224 images."""
    import torch
    import transformers as tf

    torch.manual_seed(0)
    basic = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
    tiny = {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    }
    return {
        "mobilenet-v2": tf.MobileNetV2ForImageClassification(tf.MobileNetV2Config(num_labels=1000)),
        "resnet-18": tf.ResNetForImageClassification(tf.ResNetConfig(**basic, num_labels=1000)),
        "vit-tiny": tf.ViTForImageClassification(tf.ViTConfig(**tiny, num_labels=1000)),
    }


def timed(folder: Path, manifest: dict[str, Any], image: np.ndarray[Any, Any]) -> Callable[[], float]:
    """A function that runs the artifact once on one thread and gives the time in milliseconds."""
    runner = runners.load(folder / manifest["artifact"], manifest["format"], threads=1)
    assert runner is not None
    runner.run({"pixel_values": image})

    def once() -> float:
        start = time.perf_counter()
        runner.invoke()
        return (time.perf_counter() - start) * 1e3

    return once


def main() -> None:
    """Convert each network to fp32 and int8, and time the two in turn."""
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    checks = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, model in networks().items():
            source = Path(temporary) / name
            model.eval().save_pretrained(source)
            calls = {}
            for quant in ("fp32", "int8"):
                out = Path(temporary) / f"{name}-{quant}"
                done = modelport.convert(
                    source, target="server-cpu", quant=quant, calibration="random", out=out, samples=24
                )
                calls[quant] = timed(out, dict(done.manifest), image)
            middle = medians(interleaved(ROUNDS, **calls))
            ratio = middle["fp32"] / middle["int8"]
            print(
                f"{name:13s} fp32 {middle['fp32']:6.2f} ms, int8 {middle['int8']:6.2f} ms: {ratio:.2f} times faster"
            )
            checks.append((name, ratio, ">=", FASTER))
    close("int8-speed", checks)


if __name__ == "__main__":
    main()
