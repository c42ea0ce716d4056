"""Microcontrollers: digits on an nRF52840, a MobileNetV2 refused there, C++ without warnings, no buffers outside."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bar import close
from digits import ARTIFACTS, source_logits

import modelport
from modelport.exporters.job import Port
from modelport.exporters.ports import to_artifact
from modelport.exporters.runtimes.tflite_micro import operators
from modelport.verification import runners

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import edge_headers

DEVICE = "nrf52840"
SOURCES = ("digits.pt2", "digits.keras", "digits_saved_model")


def outside_buffers(path: Path) -> int:
    """Buffers of a .tflite file whose bytes lie outside the flatbuffer."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    return sum(bool(buffer.offset or buffer.size) for buffer in model.buffers)


def warnings_of(folder: Path, kinds: list[str]) -> int:
    """Lines that g++ says of the emitted C++, against a minimal header of what it names."""
    with tempfile.TemporaryDirectory() as headers:
        edge_headers.write(Path(headers), operators.methods(kinds))
        said = edge_headers.compile_all(folder, Path(headers))
    print(said, end="")
    return len(said.splitlines())


def scores(folder: Path, manifest: dict[str, object], images: np.ndarray, nhwc: bool) -> np.ndarray:
    """The artifact's outputs in the reference kernels for images (n, 1, 8, 8): shape (n, 10)."""
    runner = runners.load(folder / "model.tflite", "tflite_reference")
    assert runner is not None
    io = dict(manifest)["io"]
    ports = Port.read(io["inputs"])  # type: ignore[index]
    found = []
    for image in images:
        given = image[None].transpose(0, 2, 3, 1) if nhwc else image[None]
        found.append(next(iter(runner.run(to_artifact({ports[0].source: given}, ports)).values())))
    return np.concatenate(found)


def digits(folder: Path) -> dict[str, float]:
    """The worst over the sources: points of top-1 lost, RAM left, warnings, outside buffers."""
    with np.load(ARTIFACTS / "held_out.npz") as held:
        images, labels = held["image"], held["labels"]
    reference = source_logits(images)
    right = float((reference.argmax(1) == labels).mean())
    worst = {"lost": -1.0, "headroom": 1e12, "flash": 1e12, "warnings": 0.0, "outside": 0.0}
    for quant, name in [*(("int8", name) for name in SOURCES), ("int16x8", "digits.pt2")]:
        out = folder / f"{name}-{quant}"
        done = modelport.convert(
            ARTIFACTS / name,
            target="edge",
            device=DEVICE,
            quant=quant,
            calibration=str(ARTIFACTS / "images"),
            out=out,
            fit=True,
        )
        actual = scores(out, dict(done.manifest), images, nhwc=name != "digits.pt2")
        found = float((actual.argmax(1) == labels).mean())
        arena, audit = done.manifest["arena"], done.manifest["audit"]
        said, outside = warnings_of(out, list(audit["operators"])), outside_buffers(out / "model.tflite")
        print(
            f"{quant:7s} {name:19s} {found:.2%} of {len(images)} right (source {right:.2%}), arena {arena['bytes']:,} B"
            f" of {arena['ram_bytes']:,}, flash about {arena['flash']:,} B of {arena['flash_bytes']:,}, "
            f"{said} lines from g++, {outside} buffers outside"
        )
        worst["lost"] = max(worst["lost"], 100 * (right - found))
        worst["headroom"] = min(worst["headroom"], arena["headroom_bytes"])
        worst["flash"] = min(worst["flash"], arena["flash_headroom_bytes"])
        worst["warnings"] += said
        worst["outside"] += outside
    return worst


def refused(folder: Path) -> tuple[float, bool]:
    """Seconds until a MobileNetV2 is refused (a process of its own), and whether peak and advice are named."""
    import torch
    import transformers as tf

    torch.manual_seed(0)
    tf.MobileNetV2ForImageClassification(tf.MobileNetV2Config(num_labels=1000)).eval().save_pretrained(
        folder / "mobilenet"
    )
    command = [shutil.which("modelport") or "modelport", "check", str(folder / "mobilenet")]
    best, said = 1e9, ""
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--target", "edge", "--device", DEVICE, "--json"], capture_output=True, text=True
        )
        best = min(best, time.perf_counter() - start)
        assert done.returncode == 3, done.stderr
        said = done.stdout
    named = all(part in said for part in ("expand_1x1", "conv_3x3", "instead of 224 x 224"))
    print(
        f"MobileNetV2 on {DEVICE}: refused in {best:.2f} s, peak tensor, operator and advice named: {named}"
    )
    return best, named


def main() -> None:
    """Measure everything and print the line with figures and bars."""
    with tempfile.TemporaryDirectory() as temporary:
        found = digits(Path(temporary))
        seconds, named = refused(Path(temporary))
    close(
        "edge",
        [
            ("digits top-1 points lost", found["lost"], "<=", 0.5),
            ("RAM left on nRF52840, bytes", found["headroom"], ">=", 0),
            ("flash left, bytes", found["flash"], ">=", 0),
            ("MobileNetV2 refused, seconds", seconds, "<=", 1),
            ("peak and advice named", float(named), ">=", 1),
            ("lines from g++ -Wall -Wextra -Werror", found["warnings"], "<=", 0),
            ("buffers outside the flatbuffer", found["outside"], "<=", 0),
        ],
    )


if __name__ == "__main__":
    if not (ARTIFACTS / "digits.pt2").exists():
        subprocess.run([sys.executable, str(ARTIFACTS.parent / "train.py")], check=True)
    main()
