"""The report is made from the manifest alone, escapes what it shows, and says what was not measured."""

from __future__ import annotations

from typing import Any

from modelport.reports import html


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
            "asked": {"weight_share": 0.9, "weights": "int8"}, "weight_bytes": {"int8": 90, "float32": 10},
            "float_ops": ["CONV_2D 'a'", "CONV_2D 'b'"],
        },
        "fidelity": {"samples": 2, "outputs": {"logits": figures}},
        "feasibility": {"verdict": "fits", "terms": [
            {"name": "file", "value": 1000.0, "unit": "B", "formula": "8 bits", "estimate": True}]},
        "warnings": ["int8 was asked for"], "notes": ["a note"],
        **changes,
    }  # fmt: skip


def test_it_shows_fidelity_shares_and_warnings() -> None:
    page = html.render(manifest())
    for words in (
        "SQNR 38.2 dB",
        "top-1 agreement 50 %",
        "int8 was asked for",
        "CONV_2D × 2",
        "1.50 ms",
        "90 %",
    ):
        assert words in page or words.replace("1.50", "1.5") in page


def test_what_comes_from_outside_is_escaped() -> None:
    page = html.render(manifest())
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_what_was_not_checked_is_said() -> None:
    assert "Not checked: no runner" in html.render(manifest(fidelity=None, audit=None))
    page = html.render(manifest(fidelity=None, not_checked="op fancy_op"))
    assert "Not checked: op fancy_op" in page
    assert "no runner" not in page


def test_what_the_check_proves_stands_beside_its_figures() -> None:
    page = html.render(manifest(proof="The graph that was written, not Apple's kernels."))
    assert "not Apple&#39;s kernels" in page
