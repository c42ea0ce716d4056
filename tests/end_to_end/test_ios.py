"""iPhone and iPad through the whole pipeline: every scheme, what is promised around it, and what is never passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import modelport
from modelport.targets.errors import FidelityBelowBudget, SourceUnreadable, Unsupported, UsageError

pytestmark = pytest.mark.slow

PACKAGE = "model.mlpackage"


def convert(digits: Path, out: Path, quant: str, **options: Any) -> dict[str, Any]:
    """The manifest of the digits CNN as a package."""
    options.setdefault("calibration", str(digits / "images"))
    return dict(
        modelport.convert(digits / "digits.pt2", target="ios", quant=quant, out=out, **options).manifest
    )


def the_only(found: dict[str, Any]) -> dict[str, Any]:
    (figures,) = found["fidelity"]["outputs"].values()
    return dict(figures)


@pytest.fixture(scope="module")
def half(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The digits CNN in fp16, as a published folder and its manifest."""
    out = tmp_path_factory.mktemp("ios") / "half"
    return out, convert(digits, out, "fp16")


def test_a_package_is_published_whole_with_what_it_proves(half: tuple[Path, dict[str, Any]]) -> None:
    out, found = half
    paths = [entry["path"] for entry in found["files"]]
    assert found["artifact"] == PACKAGE
    assert f"{PACKAGE}/Manifest.json" in paths
    assert f"{PACKAGE}/Data/com.apple.CoreML/weights/weight.bin" in paths
    assert found["measured"]["file_bytes"] == sum(
        entry["bytes"] for entry in found["files"] if entry["path"].startswith(PACKAGE)
    )
    assert "not Apple's kernels" in found["proof"]
    assert found["not_checked"] is None
    # The evaluator's speed and memory are no figures of Core ML.
    assert found["measured"]["latency_ms"] is None
    assert found["measured"]["peak_memory_bytes"] is None
    assert found["audit"]["macs"].keys() == {"float16"}
    assert found["engine"]["leaves"] == []
    report = (out / "report.html").read_text()
    assert "not Apple&#39;s kernels" in report
    assert "No operator is known to leave" in report


def test_the_readme_has_the_swift_with_the_packages_own_names(half: tuple[Path, dict[str, Any]]) -> None:
    out, found = half
    text = (out / "README.md").read_text()
    for port in (*found["io"]["inputs"], *found["io"]["outputs"]):
        assert f'"{port["artifact"]}"' in text
    assert "1 × 1 × 8 × 8" in text
    assert "import CoreML" in text


@pytest.mark.parametrize(
    ("quant", "least_db", "stored"),
    [
        ("fp32", 100, "float32"),
        ("int8-weight", 35, "int8"),
        ("int4-weight", 15, "int4"),
        ("palette4", 15, "uint4"),
    ],
)
def test_every_scheme_holds_what_it_says(
    digits: Path, tmp_path: Path, quant: str, least_db: float, stored: str
) -> None:
    found = convert(digits, tmp_path / "out", quant)
    assert the_only(found)["sqnr_db"] >= least_db
    assert the_only(found)["top1_agreement"] >= 0.98
    weights = found["audit"]["weight_bytes"]
    assert weights[stored] >= 0.9 * sum(weights.values())
    assert not found["audit"]["refused"]


def test_static_int8_keeps_the_model_without_a_mac(digits: Path, tmp_path: Path) -> None:
    found = convert(digits, tmp_path / "out", "int8")
    figures = the_only(found)
    assert figures["sqnr_db"] >= 30
    assert figures["source_accuracy"] - figures["accuracy"] <= 0.02
    assert found["audit"]["int8_weight_share"] > 0.95
    assert found["audit"]["int8_mac_share"] > 0.95
    with pytest.raises(UsageError, match="--calibration"):
        convert(digits, tmp_path / "none", "int8", calibration=None)


def test_the_same_conversion_twice_gives_the_same_bytes(
    half: tuple[Path, dict[str, Any]], digits: Path, tmp_path: Path
) -> None:
    again = convert(digits, tmp_path / "out", "fp16")
    first, second = (
        {entry["path"]: entry["sha256"] for entry in found["files"] if entry["path"].startswith(PACKAGE)}
        for found in (half[1], again)
    )
    assert first == second


def test_a_published_package_verifies_and_a_changed_one_does_not(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = convert(digits, out, "fp32")
    again = modelport.verify(out, source=digits / "digits.pt2")
    assert the_only(again)["sqnr_db"] == pytest.approx(the_only(made)["sqnr_db"], abs=0.5)
    weights = out / PACKAGE / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(SourceUnreadable, match=r"weight\.bin differs"):
        modelport.verify(out)


def test_what_was_put_into_a_package_afterwards_is_found(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(digits, out, "fp16")
    (out / PACKAGE / "Data" / "more.bin").write_bytes(b"x")
    with pytest.raises(SourceUnreadable, match=r"more\.bin is not among the files"):
        modelport.verify(out)


UNKNOWN = '''
"""A step that unlearns one operator and then compares, in the worker."""
from modelport.verification import steps
from modelport.mil.ops import OPS


def compare(job, progress):
    OPS.pop("max_pool")
    return steps.compare(job, progress)
'''


@pytest.fixture
def unlearned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification whose evaluator does not know max_pool."""
    from modelport.exporters import plan

    (tmp_path / "unlearned_pooling.py").write_text(UNKNOWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    step = "unlearned_pooling:compare"
    monkeypatch.setitem(plan.LOOKING, "arrays", (plan.LOOKING["arrays"][0], step))


def test_an_operator_that_is_not_known_is_not_checked_and_never_passed(
    half: tuple[Path, dict[str, Any]], digits: Path, tmp_path: Path, unlearned: None
) -> None:
    out = tmp_path / "out"
    found = convert(digits, out, "fp16", samples=20)
    assert found["fidelity"] is None
    assert found["not_checked"] == "op max_pool"
    assert "Not checked: op max_pool" in (out / "report.html").read_text()
    with pytest.raises(FidelityBelowBudget, match="not checked: op max_pool"):
        convert(digits, tmp_path / "held", "fp16", samples=20, budget="cosine=0.9")
    assert not (tmp_path / "held").exists()
    with pytest.raises(Unsupported, match="not checked: op max_pool"):
        modelport.verify(half[0])


def test_an_image_goes_in_as_pixels_and_labels_come_out(digits: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"digit {n}" for n in range(10)))
    out = tmp_path / "out"
    found = convert(digits, out, "int8", image_input="scale=2,bias=-3", labels=labels)
    assert the_only(found)["sqnr_db"] >= 30
    (image,) = found["io"]["inputs"]
    assert (image["scale"], image["bias"]) == ([2.0], [-3.0])
    assert found["audit"]["operators"]["classify"] == 1
    text = (out / "README.md").read_text()
    assert "CVPixelBuffer" in text
    assert "classLabel" in text


def test_embeddings_of_sentences_stay_close(minilm: Path, tmp_path: Path) -> None:
    text = tmp_path / "sentences.txt"
    text.write_text("\n".join(f"Sentence number {n} is about the weather in spring." for n in range(20)))
    done = modelport.convert(
        minilm, target="ios", quant="fp16", calibration=str(text), out=tmp_path / "out", sequence=32
    )
    figures = the_only(dict(done.manifest))
    assert figures["cosine"] >= 0.999
    (leave,) = [each for each in done.manifest["engine"]["leaves"] if each["operator"] == "gather"]
    assert leave["source"].startswith("https://")
