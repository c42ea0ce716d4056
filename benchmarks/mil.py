"""The MIL evaluator against torch: accuracy on known architectures, on packages by coremltools alone, and speed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bar import close, interleaved, medians
from networks import DIGITS, MINILM, checkpoints, compared, converted, relative, trained

from modelport.verification import runners

ROUNDS = 15
OPSETS = ("iOS15", "iOS16", "iOS17", "iOS18")

Array = np.ndarray[Any, Any]


def recurrent(folder: Path) -> Mapping[str, Path]:
    """A GRU and an LSTM, two layers of 32 on sequences of 12, as exported programs."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, cell: Any) -> None:
            super().__init__()
            self.cell, self.head = cell(16, 32, num_layers=2, batch_first=True), nn.Linear(32, 5)

        def forward(self, x: Any) -> Any:
            return self.head(self.cell(x)[0][:, -1])

    torch.manual_seed(0)
    paths = {}
    for name, cell in (("gru", nn.GRU), ("lstm", nn.LSTM)):
        paths[name] = folder / f"{name}.pt2"
        torch.export.save(torch.export.export(Net(cell).eval(), (torch.randn(1, 12, 16),)), paths[name])
    return paths


def foreign(source: Path, folder: Path) -> tuple[float, Path]:
    """MobileNetV2 as coremltools alone writes it from a trace, by opset: the worst relative error, and the last."""
    import coremltools as ct
    import torch
    import transformers as tf

    network = tf.MobileNetV2ForImageClassification.from_pretrained(source, return_dict=False).eval()
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(image)[0].numpy()
        traced = torch.jit.trace(network, image, check_trace=False)
    worst = 0.0
    for opset in OPSETS:
        path = folder / f"{opset}.mlpackage"
        ct.convert(
            traced,
            convert_to="mlprogram",
            inputs=[ct.TensorType("image", shape=tuple(image.shape))],
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=getattr(ct.target, opset),
            skip_model_load=True,
        ).save(str(path))
        runner = runners.load(path, "mlpackage")
        assert runner is not None
        (actual,) = runner.run({"image": image.numpy()}).values()
        error = relative(expected, actual)
        print(f"coremltools alone, {opset}: relative error {error:.2g}")
        worst = max(worst, error)
    return worst, path


def speed(source: Path, artifact: Path) -> float:
    """Torch's eager time over the evaluator's, for the same network on one thread, interleaved."""
    import torch
    import transformers as tf

    torch.set_num_threads(1)
    network = tf.MobileNetV2ForImageClassification.from_pretrained(source).eval()
    image = torch.rand(1, 3, 224, 224)
    runner = runners.load(artifact, "mlpackage", threads=1)
    assert runner is not None
    runner.run({"image": image.numpy()})

    def eager() -> None:
        with torch.inference_mode():
            network(image)

    def timed(call: Callable[[], object]) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e3

        return once

    found = medians(interleaved(ROUNDS, torch=timed(eager), evaluator=timed(runner.invoke)))
    print(
        f"MobileNetV2, one thread: torch eager {found['torch']:.1f} ms, evaluator {found['evaluator']:.1f} ms"
    )
    return float(found["torch"] / found["evaluator"])


def main() -> None:
    """Convert everything to fp32 and fp16, compare, and print the line with figures and bars."""
    errors, decibels = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mobilenet, data = trained(folder)
        sources = {
            "digits": DIGITS, "mobilenet-v2": mobilenet, **checkpoints(folder), "minilm": MINILM, **recurrent(folder),
        }  # fmt: skip
        for name, source in sources.items():
            row = []
            for quant in ("fp32", "fp16"):
                out = folder / f"{name}-{quant}"
                images = data if source == mobilenet else None
                done = converted(source, "ios", quant, out, images, sequence=64)
                row.append(compared(out, done.manifest))
            (error, _), (_, sqnr) = row
            print(f"{name:13s} fp32 relative error {error:.2g}, fp16 {sqnr:.1f} dB", flush=True)
            errors.append(error)
            decibels.append(sqnr)
        alone, package = foreign(mobilenet, folder)
        ratio = speed(mobilenet, package)
    close(
        "mil",
        [
            ("fp32 relative error", max(errors), "<=", 1e-4),
            ("fp16 SQNR dB", min(decibels), ">=", 50),
            ("coremltools' own packages", alone, "<=", 1e-3),
            ("speed of torch eager", ratio, ">=", 0.25),
        ],
    )


if __name__ == "__main__":
    main()
