"""Engine-ready graphs for TensorRT in int8: what its rules find in five networks, and what digits and MiniLM lose."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bar import close
from digits import ARTIFACTS, logits, source_logits
from minilm import CALIBRATION, HELD_OUT, MODEL, sentences
from networks import checkpoints, trained

import modelport
from modelport.verification.rules import tensorrt as rules

DIGITS = ARTIFACTS / "digits.pt2"


def converted(
    name: str, source: Path, data: str, folder: Path, **options: Any
) -> tuple[Path, Mapping[str, Any]]:
    """The bundle of one network in int8 and its manifest; prints its row."""
    out = folder / name
    done = modelport.convert(
        source, target="server-gpu", quant="int8", calibration=data, out=out, budget="cosine=0", **options
    )
    manifest = done.manifest
    found = rules.check(out / "model.onnx")
    audit = manifest["audit"]
    worst = min(figures["cosine"] for figures in manifest["fidelity"]["outputs"].values())
    pairs = audit["operators"]["QuantizeLinear"]
    print(
        f"{name:13s} {len(found)} findings of {len(rules.RULES)} rules, {pairs} activations quantized, "
        f"{audit['asked']['weight_share']:.1%} of the weight bytes and {audit['asked']['mac_share']:.1%} of the "
        f"products int8, cosine {worst:.4f} on {manifest['fidelity']['samples']} samples",
        flush=True,
    )
    for finding in found:
        print(f"  {finding}")
    return out, {**manifest, "findings": len(found), "cosine": worst}


def points_lost(out: Path, manifest: Mapping[str, Any]) -> float:
    """Points of top-1 on the 450 held-out digits, in ONNX Runtime as it comes and operator by operator: the worse."""
    import onnxruntime

    with np.load(ARTIFACTS / "held_out.npz") as held:
        images, labels = held["image"], held["labels"]
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    scores = {
        "source": source_logits(images),
        "ONNX Runtime": session.run(None, {session.get_inputs()[0].name: images})[0],
        "operator by operator": logits(out, dict(manifest), images, nhwc=False),
    }
    right = {name: 100 * float((found.argmax(1) == labels).mean()) for name, found in scores.items()}
    print("digits: " + ", ".join(f"{name} {share:.2f} % right" for name, share in right.items()), flush=True)
    return right["source"] - min(right.values())


def main() -> None:
    """Convert the five networks, then print the line with figures and bars."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = folder / "sentences.txt"
        text.write_text("\n".join(sentences()[: CALIBRATION + HELD_OUT]), encoding="utf-8")
        out, digits = converted("digits", DIGITS, str(ARTIFACTS / "images"), folder)
        lost = points_lost(out, digits)
        sample = {"samples": CALIBRATION + HELD_OUT, "held_out": HELD_OUT}
        minilm = converted("minilm", MODEL, str(text), folder, **sample)[1]
        random = {"samples": 20}
        (folder / "sources").mkdir()
        sources = checkpoints(folder / "sources")
        rows = [
            converted(name, sources[name], "random", folder, **random)[1]
            for name in ("resnet-18", "bert-small")
        ]
        mobilenet, data = trained(folder / "sources")
        rows.append(converted("mobilenet-v2", mobilenet, str(data), folder, samples=60)[1])
    findings = sum(row["findings"] for row in (digits, minilm, *rows))
    close(
        "tensorrt",
        [
            ("broken rules", findings, "<=", 0),
            ("digits top-1 points lost", lost, "<=", 0.5),
            ("MiniLM cosine", minilm["cosine"], ">=", 0.985),
        ],
    )


if __name__ == "__main__":
    main()
