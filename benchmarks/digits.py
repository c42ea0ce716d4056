"""The digits CNN in int8 from every source of both targets, on the 450 held-out images."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bar import close

import modelport
from modelport.exporters.job import Port
from modelport.exporters.ports import to_artifact
from modelport.verification import runners
from modelport.verification.fidelity import sqnr_db

ARTIFACTS = Path(__file__).resolve().parents[1] / "examples" / "digits" / "artifacts"
CASES = (
    ("android", "digits.pt2"),
    ("android", "digits_saved_model"),
    ("android", "digits.keras"),
    ("server-cpu", "digits.pt2"),
    ("server-cpu", "digits.onnx"),
)


def logits(
    folder: Path, manifest: dict[str, Any], images: np.ndarray[Any, Any], nhwc: bool
) -> np.ndarray[Any, Any]:
    """The artifact's outputs for images (n, 1, 8, 8): shape (n, 10)."""
    runner = runners.load(folder / manifest["artifact"], manifest["format"])
    assert runner is not None
    ports = Port.read(manifest["io"]["inputs"])
    output = manifest["io"]["outputs"][0]["artifact"]
    outputs = []
    for image in images:
        feed = image[None].transpose(0, 2, 3, 1) if nhwc else image[None]
        outputs.append(runner.run(to_artifact({ports[0].source: feed}, ports))[output])
    return np.concatenate(outputs)


def source_logits(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The fp32 network's outputs; every source form holds the same weights."""
    import onnxruntime

    session = onnxruntime.InferenceSession(ARTIFACTS / "digits.onnx", providers=["CPUExecutionProvider"])
    result: np.ndarray[Any, Any] = session.run(None, {"image": images})[0]
    return result


def main() -> None:
    """Convert each pair with the calibration images, then compare on images that no step has seen."""
    with np.load(ARTIFACTS / "held_out.npz") as held:
        images, labels = held["image"], held["labels"]
    reference = source_logits(images)
    source_right = float((reference.argmax(1) == labels).mean())
    print(f"fp32: {source_right:.2%} of {len(images)} held-out images right")
    worst = {"lost": -1.0, "agreement": 1.0, "sqnr": 1e9}
    with tempfile.TemporaryDirectory() as temporary:
        for target, name in CASES:
            out = Path(temporary) / f"{target}-{name}"
            done = modelport.convert(
                ARTIFACTS / name, target=target, quant="int8", calibration=str(ARTIFACTS / "images"), out=out
            )
            actual = logits(out, dict(done.manifest), images, nhwc="keras" in name or "saved" in name)
            right = float((actual.argmax(1) == labels).mean())
            agreement = float((actual.argmax(1) == reference.argmax(1)).mean())
            sqnr = sqnr_db(reference, actual)
            size = done.manifest["measured"]["file_bytes"]
            print(
                f"{target:11s} {name:19s} {right:.2%} right, agreement {agreement:.2%}, {sqnr:.1f} dB, {size} B"
            )
            worst["lost"] = max(worst["lost"], 100 * (source_right - right))
            worst["agreement"] = min(worst["agreement"], agreement)
            worst["sqnr"] = min(worst["sqnr"], sqnr)
    close(
        "digits",
        [
            ("top-1 points lost", worst["lost"], "<=", 0.5),
            ("agreement", worst["agreement"], ">=", 0.995),
            ("SQNR dB", worst["sqnr"], ">=", 30),
        ],
    )


if __name__ == "__main__":
    if not (ARTIFACTS / "digits.pt2").exists():
        subprocess.run([sys.executable, str(ARTIFACTS.parent / "train.py")], check=True)
    main()
