"""A language model from its checkpoint to a verified vLLM checkpoint, and bad ones: one clear error, nothing left."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import modelport
import refusals
import tiny_llms
import trained_llm
from modelport.pipeline import Conversion
from modelport.sources.huggingface import checkpoint
from modelport.targets.errors import FidelityBelowBudget, MissingExtra, UsageError
from vllm_jobs import export, make_job, source

pytestmark = pytest.mark.slow

SHARD = "model-00002-of-00002.safetensors"
CONVERT = Path(sys.executable).with_name("convert")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(trained_llm.held_out(), encoding="utf-8")
    return path


def convert(model: Path, out: Path, quant: str, **options: Any) -> Conversion:
    options = {"samples": 12, "held_out": 3, "sequence": 64, "threads": 1, **options}
    return modelport.convert(model, target="server-gpu-llm", quant=quant, out=out, **options)


@pytest.fixture(scope="module")
def converted(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    out = tmp_path_factory.mktemp("out") / "llama"
    return convert(trained_llm.trained(), out, "w4a16-gptq", calibration=str(text), budget="ppl=10")


def test_the_size_that_check_counted_is_the_size_of_the_folder(converted: Conversion) -> None:
    manifest = converted.manifest
    assert manifest["predicted"]["file_bytes"] == manifest["measured"]["file_bytes"]
    folder = converted.out / "checkpoint"
    assert manifest["measured"]["file_bytes"] == sum(file.stat().st_size for file in folder.iterdir())


def test_the_manifest_tells_the_loss_and_what_was_not_run(converted: Conversion) -> None:
    manifest = converted.manifest
    fidelity = manifest["fidelity"]
    assert fidelity["against"] == "the source in torch"
    assert 0 < fidelity["kl"]["mean"] < 0.1
    assert fidelity["outputs"]["logits"]["cosine"] > 0.99
    rise = fidelity["perplexity"]["artifact"]["value"] / fidelity["perplexity"]["reference"]["value"]
    assert 0.95 < rise < 1.05
    assert manifest["measured"]["speed"] is None
    assert manifest["measured"]["latency_ms"] is None
    assert "transformers on the CPU" in manifest["proof"]
    assert any("vLLM itself was not run here" in note for note in manifest["notes"])
    assert dict(manifest["run"])["vLLM"].startswith("vllm serve checkpoint")
    assert manifest["audit"]["weight_bytes"]["int4"] > 0
    assert {"torch", "transformers", "llmcompressor", "compressed-tensors"} <= set(manifest["versions"])


def test_the_published_folder_verifies_again_and_a_changed_byte_does_not(
    converted: Conversion, tmp_path: Path
) -> None:
    found = modelport.verify(converted.out)
    assert found["fidelity"]["kl"]["mean"] == pytest.approx(
        converted.manifest["fidelity"]["kl"]["mean"], rel=1e-3
    )
    folder = Path(shutil.copytree(converted.out, tmp_path / "copy"))
    weights = folder / "checkpoint" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(modelport.ModelportError, match=r"model\.safetensors"):
        modelport.verify(folder)


def test_what_loses_more_than_the_budget_is_not_published(text: Path, tmp_path: Path) -> None:
    with pytest.raises(FidelityBelowBudget, match="perplexity"):
        convert(
            trained_llm.trained(), tmp_path / "out", "w8a8-fp8", calibration=str(text), budget="ppl=0.00001"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_is_killed_goes_on(text: Path, tmp_path: Path) -> None:
    """The whole command is killed with SIGKILL behind the first layer; a second one does the rest only."""
    model = source(tmp_path / "model", "qwen2", layers=6)
    kept = tmp_path / "kept"

    def command(out: str) -> list[str]:
        return [
            str(CONVERT), str(model), "--target", "server-gpu-llm", "--quant", "w4a16-gptq", "--calibration", str(text),
            "--samples", "26", "--held-out", "2", "--sequence", "64", "--threads", "1", "--out", str(tmp_path / out),
            "--resume", str(kept), "--budget", "cosine=0", "--quiet",
        ]  # fmt: skip

    with subprocess.Popen(command("out"), start_new_session=True) as running:
        deadline = time.monotonic() + 240
        while not (kept / "done.json").exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    # The guardian ends the worker, which is in a session of its own.
    time.sleep(2)
    done = json.loads((kept / "done.json").read_text())["layers"]
    assert done < 6
    assert not (tmp_path / "out").exists()
    before = {file: file.stat().st_mtime_ns for file in sorted(kept.glob("layer-*.safetensors"))[:done]}
    assert subprocess.run(command("out"), check=False).returncode == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(list(kept.glob("layer-*.safetensors"))) == 6
    assert (tmp_path / "out" / "checkpoint" / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    folder.mkdir()
    return tiny_llms.make("llama3", folder, shards=2, layers=2)


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def refused(
    path: Path, code: int, *words: str, quant: str = "w8a8-fp8", options: tuple[str, ...] = ()
) -> None:
    """See `refusals.refused`."""
    refusals.refused(path, code, *words, target="server-gpu-llm", quant=quant, options=options)


def test_a_truncated_shard(model: Path) -> None:
    data = (model / SHARD).read_bytes()
    (model / SHARD).write_bytes(data[:-10])
    refused(model, 4, SHARD, "ends at byte")


def test_a_missing_shard(model: Path) -> None:
    (model / SHARD).unlink()
    refused(model, 4, SHARD, "is missing")


def test_a_source_that_is_quantized(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (model / "config.json").write_text(json.dumps(config))
    refused(model, 5, "quantization_config", "awq", "Start from the original weights")


def test_an_architecture_without_known_layers(tmp_path: Path) -> None:
    refused(source(tmp_path / "gpt2", "gpt2"), 5, "gpt2", "Known: llama")


def test_no_text_for_a_scheme_that_calibrates(model: Path) -> None:
    refused(model, 2, "--calibration", quant="w4a16-gptq")


def test_a_scheme_of_another_target(model: Path) -> None:
    refused(model, 2, "has no scheme 'q4_k_m'", "w4a16-gptq", quant="q4_k_m")


def test_a_damaged_value(model: Path) -> None:
    place = checkpoint.places(model)["model.layers.1.mlp.up_proj.weight"]
    with place.file.open("r+b") as stream:
        stream.seek(place.begin)
        stream.write((0x7FC0).to_bytes(2, "little"))
    refused(model, 4, "model.layers.1.mlp.up_proj.weight", "NaN")


def test_resume_without_layers_to_keep(model: Path, tmp_path: Path) -> None:
    refused(model, 2, "--resume", "in one go", options=("--resume", str(tmp_path / "kept")))


def test_a_missing_llm_compressor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = source(tmp_path / "model")
    with pytest.raises(MissingExtra, match="llm-compressor, which is not installed") as raised:
        export(make_job(tmp_path, model, "w4a16-gptq", calibrated=True, extra="server-gpu-llm"))
    assert raised.value.mend == "pip install 'modelport[server-gpu-llm]'"
    assert isinstance(raised.value, UsageError)


def test_the_options_of_another_target_are_refused(model: Path) -> None:
    refused(model, 2, "--imatrix", options=("--imatrix", str(model / "config.json")))
