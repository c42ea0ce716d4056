"""A language model from its checkpoint to a verified GGUF: what `check` said is what `convert` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import modelport
import trained_llm
from modelport.exporters.runtimes.gguf import importance
from modelport.pipeline import Conversion
from modelport.targets.errors import FidelityBelowBudget, Unsupported

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llama() -> Path:
    return trained_llm.trained()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    paragraphs = [part for part in trained_llm.held_out().split("\n\n") if len(part) > 80]
    path.write_text("\n".join(json.dumps({"text": paragraph}) for paragraph in paragraphs))
    return path


def convert(model: Path, out: Path, quant: str, **options: Any) -> Conversion:
    """A conversion verified on a few short windows by one thread: llama.cpp's threads wait for each other."""
    options = {"samples": 12, "held_out": 4, "sequence": 128, "threads": 1, **options}
    return modelport.convert(model, target="local-llm", quant=quant, out=out, **options)


@pytest.fixture(scope="module")
def converted(llama: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    out = tmp_path_factory.mktemp("out") / "llama"
    return convert(llama, out, "q4_k_m", calibration=str(text), prompt="The import statement")


def test_the_size_that_check_counted_is_the_size_of_the_file(converted: Conversion) -> None:
    manifest = converted.manifest
    assert manifest["predicted"]["file_bytes"] == (converted.out / "model.gguf").stat().st_size
    assert manifest["measured"]["file_bytes"] == manifest["predicted"]["file_bytes"]


def test_the_manifest_tells_loss_speed_and_a_sample(converted: Conversion) -> None:
    manifest = converted.manifest
    fidelity = manifest["fidelity"]
    assert 0 < fidelity["kl"]["mean"] < 1
    assert fidelity["perplexity"]["reference"]["value"] > 1
    assert fidelity["source"]["reference"]["cosine"] > 0.999
    assert manifest["without_importance"]["kl"]["mean"] > 0
    assert manifest["measured"]["speed"]["decode_tokens_per_second"] > 1
    assert manifest["sample"]["prompt"] == "The import statement"
    assert manifest["audit"]["refused"] is False
    assert any("model.gguf" in line for _, line in manifest["run"])


def test_the_importance_matrix_is_published_in_llama_cpps_own_form(converted: Conversion) -> None:
    found = importance.read(converted.out / "imatrix.gguf")
    assert "blk.0.ffn_down.weight" in found


def test_a_published_folder_is_verified_again_without_its_source(converted: Conversion) -> None:
    again = modelport.verify(converted.out)
    assert again["fidelity"]["kl"]["mean"] == pytest.approx(
        converted.manifest["fidelity"]["kl"]["mean"], rel=0.2
    )


def test_the_report_shows_how_to_run_it_and_what_was_lost(converted: Conversion) -> None:
    page = (converted.out / "report.html").read_text()
    for words in ("llama-cli", "KL divergence", "perplexity", "without importance matrix", "tokens/s"):
        assert words in page


def test_two_steps_give_the_same_bytes_as_one_pass(llama: Path, tmp_path: Path) -> None:
    one = convert(llama, tmp_path / "one", "q5_k_m")
    two = convert(llama, tmp_path / "two", "q5_k_m", two_step=True)
    assert (one.out / "model.gguf").read_bytes() == (two.out / "model.gguf").read_bytes()


def test_a_gguf_is_quantized_again_and_a_low_bit_one_only_when_asked(llama: Path, tmp_path: Path) -> None:
    high = convert(llama, tmp_path / "f16", "f16").out / "model.gguf"
    low = convert(high, tmp_path / "q4", "q4_0").out / "model.gguf"
    with pytest.raises(Unsupported, match="q4_0"):
        convert(low, tmp_path / "no", "q2_k")
    assert not (tmp_path / "no").exists()
    again = convert(low, tmp_path / "again", "q3_k_m", requantize=True, keep=True)
    assert any("second time" in note for note in again.manifest["notes"])


def test_a_budget_on_divergence_publishes_nothing_when_it_is_missed(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(FidelityBelowBudget, match="KL divergence"):
        convert(llama, tmp_path / "out", "q2_k", budget="kl=0.0001")
    assert not (tmp_path / "out").exists()


def test_check_counts_every_scheme_and_judges_every_device(llama: Path) -> None:
    found = modelport.check(llama, target="local-llm", device="rpi5", kv_type="q8_0")
    assert all(verdict.counted for verdict in found.schemes.values())
    sizes = [found.schemes[name].predicted.file_bytes for name in ("f16", "q8_0", "q6_k", "q4_k_m", "q2_k")]
    assert sizes == sorted(sizes, reverse=True)
    assert found.devices["rpi5"].verdict == "fits"
    assert "1.0625 B" in next(term.formula for term in found.verdict.terms if term.name == "M_KV")
