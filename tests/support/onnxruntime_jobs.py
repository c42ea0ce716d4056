"""Networks and jobs of the server-cpu exporter: made, run in this process, and compared with the float file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.calibration.samples import write_set
from modelport.exporters.job import Job, Outcome
from modelport.verification.runners import load

torch: Any = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EDGE = 64


def cnn() -> Any:
    """A small convolutional network, images (N, 3, 64, 64) to 10 scores, untrained."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def networks() -> dict[str, Callable[[], Any]]:
    """What makes each Hugging Face network, by the name of its folder."""
    t = transformers
    small = {"num_labels": 10, "image_size": EDGE}
    return {
        "mobilenet": lambda: t.MobileNetV2ForImageClassification(t.MobileNetV2Config(**small)),
        "resnet": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], **small)
        ),
        "vit": lambda: t.ViTForImageClassification(
            t.ViTConfig(
                hidden_size=96, num_hidden_layers=3, num_attention_heads=3, intermediate_size=192, **small
            )
        ),
        "bert": lambda: t.BertModel(
            t.BertConfig(
                vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=128, max_position_embeddings=64,
            )
        ),
    }  # fmt: skip


def write_sources(root: Path) -> Path:
    """Every network as a source, and calibration samples for images and for text."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for name, make in networks().items():
        model = make().eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as training would leave it, so that folding shows
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
                torch.nn.init.normal_(module.running_mean, std=0.1)
        model.save_pretrained(root / name)
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        cnn().eval(), (torch.randn(2, 3, EDGE, EDGE),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, root / "cnn.pt2")
    for name, shape in (("pixel_values", (16, 3, EDGE, EDGE)), ("input", (16, 3, EDGE, EDGE))):
        images = rng.normal(size=shape).astype(np.float32)
        write_set(root / f"samples-{name}" / "calibration", {name: images})
    write_set(root / "samples-text" / "calibration", text(rng, 16, 20), lengths=np.full(16, 12))
    return root


def text(rng: np.random.Generator, count: int, length: int) -> dict[str, np.ndarray]:
    """Token arrays (count, length), the last quarter of each row masked out."""
    mask = np.ones((count, length), np.int64)
    mask[:, length - length // 4 :] = 0
    return {
        "input_ids": rng.integers(1, 500, (count, length)),
        "attention_mask": mask,
        "token_type_ids": np.zeros((count, length), np.int64),
    }


def source(folder: Path, name: str) -> tuple[str, Path]:
    """Source kind and path of a network in a folder of `write_sources`."""
    return ("torch-exported", folder / "cnn.pt2") if name == "cnn" else ("huggingface", folder / name)


def feed(name: str, count: int, length: int = 16) -> dict[str, np.ndarray]:
    """Inputs for a network, the same at every call; `length` in tokens is for bert alone."""
    rng = np.random.default_rng(7)
    if name == "bert":
        return text(rng, count, length)
    key = "input" if name == "cnn" else "pixel_values"
    return {key: rng.normal(size=(count, 3, EDGE, EDGE)).astype(np.float32)}


def export(
    kind: str, path: Path, quant: str, out: Path, samples: Path | None = None, **options: Any
) -> Outcome:
    """What the exporter reports of one job in this process; its files lie in `out`."""
    from modelport.exporters.runtimes import onnxruntime as runtime

    work = out / "work"
    work.mkdir(parents=True)
    job = Job(
        (), kind, str(path), "server-cpu", "onnxruntime", quant, str(out), str(work),
        samples=str(samples) if samples else None, options=options,
    )  # fmt: skip
    return runtime.export(job, lambda stage, done, total: None)


def write_float_files(folder: Path) -> dict[str, Path]:
    """Each network once through torch.onnx: what the schemes' tests start from, as an ONNX source."""
    made = {}
    for name in ("cnn", *networks()):
        out = folder / f"{name}-fp32"
        export(*source(folder, name), "fp32", out)
        made[name] = out / "model.onnx"
    return made


def quantize(
    float_files: dict[str, Path], name: str, quant: str, out: Path, **options: Any
) -> tuple[Path, Outcome]:
    """The file that a scheme makes of a network's float file, given its samples, and the report."""
    samples = {"bert": "text", "cnn": "input"}.get(name, "pixel_values")
    folder = float_files[name].parent.parent
    done = export("onnx", float_files[name], quant, out, folder / f"samples-{samples}", **options)
    return out / done.files[0], done


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Cosine similarity of two arrays, flattened, in double precision."""
    left, right = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def compare(float_files: dict[str, Path], name: str, path: Path) -> float:
    """Cosine similarity of a file's one output and the float file's, on inputs that calibrated neither."""
    given = feed(name, 2)
    original, made = load(float_files[name], "onnx"), load(path, "onnx")
    assert original is not None
    assert made is not None
    (expected,) = original.run(given).values()
    (actual,) = made.run(given).values()
    return cosine(expected, actual)
