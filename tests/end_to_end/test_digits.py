"""The digits CNN through the whole pipeline: every source and scheme, and what is promised around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import modelport
from modelport.targets.errors import (
    DoesNotFit,
    FidelityBelowBudget,
    SourceUnreadable,
    Unsupported,
    UsageError,
)

pytestmark = pytest.mark.slow


def convert(digits: Path, name: str, out: Path, **options: Any) -> dict[str, Any]:
    """The manifest of a conversion calibrated on the example's images."""
    options.setdefault("calibration", str(digits / "images"))
    return dict(modelport.convert(digits / name, out=out, **options).manifest)


def the_only(found: dict[str, Any]) -> dict[str, Any]:
    (figures,) = found["fidelity"]["outputs"].values()
    return dict(figures)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("android", "digits.pt2"),
        ("android", "digits_saved_model"),
        ("android", "digits.keras"),
        ("android", "digits.onnx"),
        ("server-cpu", "digits.pt2"),
        ("server-cpu", "digits.onnx"),
        ("server-cpu", "digits_saved_model"),
        ("server-cpu", "digits.keras"),
    ],
)
def test_static_int8_keeps_the_model_from_every_source(
    digits: Path, tmp_path: Path, target: str, name: str
) -> None:
    found = convert(digits, name, tmp_path / "out", target=target, quant="int8")
    figures = the_only(found)
    assert figures["sqnr_db"] >= 30
    assert figures["top1_agreement"] >= 0.98  # of 64: one image may differ
    assert figures["source_accuracy"] - figures["accuracy"] <= 0.02
    assert found["audit"]["int8_weight_share"] > 0.95
    assert found["audit"]["int8_mac_share"] > 0.95
    assert found["measured"]["latency_ms"]["p50"] > 0
    assert found["measured"]["peak_memory_bytes"] > 0
    assert found["calibration"]["given"] is True
    report = (tmp_path / "out" / "report.html").read_text()
    assert "SQNR" in report


@pytest.mark.parametrize(
    ("target", "quant", "least_db", "largest_share"),
    [
        ("android", "fp32", 100, 1.6),
        ("android", "fp16", 50, 0.9),
        ("android", "int8-dynamic", 25, 0.6),
        ("android", "int8-weight", 25, 0.6),
        ("server-cpu", "fp32", 100, 1.6),
        ("server-cpu", "fp16", 50, 0.9),
    ],
)
def test_the_other_schemes_work_without_calibration(
    digits: Path, tmp_path: Path, target: str, quant: str, least_db: float, largest_share: float
) -> None:
    found = convert(digits, "digits.pt2", tmp_path / "out", target=target, quant=quant, calibration=None)
    figures = the_only(found)
    assert figures["exact"] or figures["sqnr_db"] >= least_db
    assert found["calibration"]["given"] is False
    assert found["calibration"]["kind"] == "random"
    assert found["measured"]["file_bytes"] <= largest_share * 4 * found["source"]["parameters"] + 20_000


@pytest.mark.parametrize("target", ["android", "server-cpu"])
def test_the_same_conversion_twice_gives_the_same_bytes(digits: Path, tmp_path: Path, target: str) -> None:
    hashes = []
    for run in ("a", "b"):
        found = convert(digits, "digits.pt2", tmp_path / run, target=target, quant="int8")
        hashes.append([entry["sha256"] for entry in found["files"] if entry["path"] == found["artifact"]])
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 1


def test_a_published_folder_verifies_and_a_changed_one_does_not(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = convert(digits, "digits.pt2", out, target="server-cpu", quant="int8")
    again = modelport.verify(out, source=digits / "digits.pt2")
    for name, figures in made["fidelity"]["outputs"].items():
        assert again["fidelity"]["outputs"][name]["sqnr_db"] == pytest.approx(figures["sqnr_db"], abs=0.5)
    artifact = out / made["artifact"]
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(bytes(data))
    with pytest.raises(SourceUnreadable, match=made["artifact"]):
        modelport.verify(out)


def test_what_cannot_work_is_refused_before_any_work(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Unsupported, match="keras"):
        modelport.convert(digits / "digits.keras", target="local-llm", out=out)
    for target, quant in (
        ("server-cpu", "int4-weight"),
        ("server-cpu", "int8-dynamic"),
        ("android", "int4-weight"),
    ):
        with pytest.raises(Unsupported, match=r"convolutions.*int8"):
            modelport.convert(digits / "digits.pt2", target=target, quant=quant, out=out)
    with pytest.raises(Unsupported, match="convolutions"):
        modelport.check(digits / "digits.pt2", target="server-cpu", quant="int4-weight")
    with pytest.raises(UsageError, match="--calibration"):
        modelport.convert(digits / "digits.pt2", target="android", quant="int8", out=out)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_fit_stops_with_what_would(digits: Path, tmp_path: Path) -> None:
    device = tmp_path / "tiny.toml"
    device.write_text('[tiny]\ntitle = "a phone with nothing free"\nclass = "android"\nmemory_bytes = 65536\n'
                      'usable_fraction = 0.5\nbandwidth = 1e9\nsources = ["none"]\n')  # fmt: skip
    with pytest.raises(DoesNotFit) as refused:
        modelport.convert(
            digits / "digits.pt2", target="android", quant="fp32", device=str(device), out=tmp_path / "out"
        )
    checked: Any = refused.value.check
    assert checked.verdict.alternatives
    assert not (tmp_path / "out").exists()


def test_a_missed_budget_publishes_nothing_unless_kept(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FidelityBelowBudget, match="90 dB"):
        convert(digits, "digits.pt2", out, target="server-cpu", quant="int8", budget="sqnr=90")
    assert list(tmp_path.iterdir()) == []
    convert(digits, "digits.pt2", out, target="server-cpu", quant="int8", budget="sqnr=90", keep=True)
    assert json.loads((out / "manifest.json").read_text())["state"] == "done"


def test_random_calibration_is_marked(digits: Path, tmp_path: Path) -> None:
    found = convert(
        digits,
        "digits.pt2",
        tmp_path / "out",
        target="server-cpu",
        quant="int8",
        calibration="random",
        budget="cosine=0",
    )
    assert found["calibration"]["kind"] == "random"
    assert any("random" in warning for warning in found["calibration"]["warnings"])


def test_nhwc_at_the_boundary_is_the_users_choice(digits: Path, tmp_path: Path) -> None:
    kept = convert(digits, "digits.pt2", tmp_path / "a", target="android", quant="int8")
    assert kept["io"]["inputs"][0]["permutation"] == []
    turned = convert(digits, "digits.pt2", tmp_path / "b", target="android", quant="int8", layout="nhwc")
    assert turned["io"]["inputs"][0]["permutation"] == [0, 2, 3, 1]
    assert the_only(turned)["sqnr_db"] >= 30
