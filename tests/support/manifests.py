"""A manifest with every key that reports read."""

from __future__ import annotations

from typing import Any


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest with every key that the page reads."""
    figures = {"sqnr_db": 38.2, "exact": False, "cosine": 0.999, "cosine_min": 0.99, "top1_agreement": 0.5}
    latency = {"p50": 1.5, "p90": 2.0}
    predicted = {"latency_ms": 2.0, "peak_memory_bytes": 5_000_000, "file_bytes": 1000}
    return {
        "state": "done", "target": "android", "device": "pixel8", "quant": "int8", "artifact": "model.tflite",
        "command": ["convert", "<script>alert(1)</script>"], "modelport": "0.1.0", "versions": {"numpy": "2"},
        "source": {
            "name": "net", "architecture": "Net", "parameters": 1234, "bytes": 4000, "kind": "onnx", "sha256": "ab",
        },
        "measured": {
            "file_bytes": 1000, "latency_ms": latency, "source_latency_ms": latency, "peak_memory_bytes": None,
            "conversion_seconds": 3.0, "conversion_peak_bytes": 7,
        },
        "predicted": predicted, "predicted_this_host": predicted,
        "calibration": {"given": True, "kind": "arrays", "samples": 3, "held_out": 2, "sha256": "cd"},
        "audit": {
            "asked": {"weight_share": 0.9, "weights": "int8", "compute": "int8", "mac_share": 0.8},
            "weight_bytes": {"int8": 90, "float32": 10},
            "float_ops": ["CONV_2D 'a'", "CONV_2D 'b'"],
        },
        "fidelity": {"samples": 2, "outputs": {"logits": figures}},
        "feasibility": {"verdict": "fits", "terms": [
            {"name": "file", "value": 1000.0, "unit": "B", "formula": "8 bits", "estimate": True}]},
        "warnings": ["int8 was asked for"], "notes": ["a note"],
        **changes,
    }  # fmt: skip
