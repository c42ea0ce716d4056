"""A checkpoint of vLLM's format: what its files hold, and that running it rounds weights and activations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.exporters.runtimes.vllm import layout, rounding, schemes, shards
from modelport.sources.huggingface import checkpoint
from modelport.targets.errors import ConversionFailed, SourceUnreadable
from modelport.verification import runners
from modelport.verification.audit import Audit, audit
from modelport.verification.audit.rule import shares
from vllm_jobs import export, make_job, source

MATRICES = 2 * (256 * 256 + 2 * 128 * 256 + 256 * 256 + 3 * 256 * 512)
"""Weights of the linear layers of the tiny Qwen2."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source(tmp_path_factory.mktemp("qwen") / "model")


@pytest.fixture(scope="module")
def folders(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    return {name: export(make_job(root / name, model, name))[0] for name in ("bf16", "w8a8-int8", "w8a8-fp8")}


def counted(folder: Path) -> Audit:
    found = audit(folder, "compressed-tensors")
    assert found is not None
    return found


def test_bytes_are_counted_by_stored_form_scales_included(folders: dict[str, Path]) -> None:
    found = counted(folders["w8a8-int8"])
    rows = 2 * (256 + 128 + 128 + 256 + 512 + 512 + 256)
    assert found.weight_bytes["int8"] == MATRICES + 2 * rows
    table = found.apart["bfloat16"]
    assert table == 2 * 256 * json.loads((folders["bf16"] / "config.json").read_text())["vocab_size"]
    assert found.macs == {"int8": MATRICES, "bfloat16": table // 2}
    assert found.float_ops == ("bfloat16 'model.embed_tokens.weight'",)
    assert found.file_bytes == sum(file.stat().st_size for file in folders["w8a8-int8"].iterdir())


@pytest.mark.parametrize(
    ("name", "weights"), [("bf16", "bfloat16"), ("w8a8-int8", "int8"), ("w8a8-fp8", "float8_e4m3")]
)
def test_the_tables_that_no_scheme_touches_do_not_count(
    folders: dict[str, Path], name: str, weights: str
) -> None:
    held = shares(counted(folders[name]), weights, weights)
    assert held.weights is not None
    assert held.weights > 0.99
    assert not held.refused
    assert shares(counted(folders["bf16"]), "int8", "int8").refused


def test_a_config_that_says_another_form_than_the_files_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = json.loads((folders["w8a8-fp8"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folders["w8a8-int8"] / "model.safetensors").read_bytes())
    with pytest.raises(SourceUnreadable, match="stored as int8, where quantization_config says float8_e4m3"):
        counted(tmp_path)
    config["quantization_config"]["config_groups"] = {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceUnreadable, match="not one group"):
        counted(tmp_path)


IDS = (np.arange(40)[None] * 7 + 5) % 700


def load(folder: Path) -> Any:
    return runners.load(folder, "compressed-tensors")


def by_hand(folder: Path, kind: str) -> Any:
    """The source with the stored weights and rounded activations put in by arithmetic of our own, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    places = checkpoint.places(folder)

    def stored(name: str) -> Any:
        place = places[name]
        data = place.file.read_bytes()[place.begin :][: place.nbytes]
        return np.frombuffer(data, rounding.NUMPY[place.dtype]).reshape(place.shape).astype(np.float32)

    source_folder = folder.parents[2] / "source"
    built = AutoModelForCausalLM.from_pretrained(
        source_folder, dtype=torch.float32, attn_implementation="eager"
    )
    rounded = 0

    def activations(module: Any, given: Any) -> Any:
        rows = given[0].numpy()
        flat = rows.reshape(-1, rows.shape[-1])
        scale = rounding.scales(flat, kind)
        found = rounding.quantize(flat, scale, kind).astype(np.float32) * scale
        return (torch.tensor(found.reshape(rows.shape)),)

    for name, module in built.named_modules():
        if f"{name}.weight_scale" in places:
            weight = stored(f"{name}.weight") * stored(f"{name}.weight_scale")
            module.weight.data = torch.tensor(weight)
            module.register_forward_pre_hook(activations)
            rounded += 1
    assert rounded == 14
    with torch.inference_mode():
        return built(input_ids=torch.tensor(IDS), use_cache=False).logits.numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("w8a8-int8", "int8"), ("w8a8-fp8", "float8_e4m3")])
def test_the_runner_rounds_activations_as_the_checkpoint_says(
    folders: dict[str, Path], model: Path, name: str, kind: str
) -> None:
    link = folders[name].parents[2] / "source"
    if not link.exists():
        link.symlink_to(model)
    runner = load(folders[name])
    found = runner.run({"input_ids": IDS})["logits"]
    wanted = by_hand(folders[name], kind)
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
    for module in runner._model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            module.quantization_enabled = False
    without = runner.run({"input_ids": IDS})["logits"]
    assert np.abs(without - wanted).max() > 20e-3 * np.abs(wanted).max()
    assert "transformers on the CPU" in runner.proof


@pytest.mark.slow
def test_a_16_bit_checkpoint_is_the_source(folders: dict[str, Path], model: Path) -> None:
    from modelport.sources.loading.causal_lm import load_reference

    runner = load(folders["bf16"])
    found = runner.logits(IDS, first=3, last=30)
    wanted = load_reference("causal-lm", model, {})({"input_ids": IDS})["logits"]
    assert np.array_equal(found, wanted[0, 3:30])
    assert runner.vocabulary == wanted.shape[-1]


@pytest.mark.slow
def test_a_checkpoint_in_shards_is_the_same_model(
    folders: dict[str, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 400_000)
    parts, _ = export(make_job(tmp_path, model, "w8a8-int8"))
    assert len(list(parts.glob("model-*-of-*.safetensors"))) >= 4
    assert counted(parts).weight_bytes == counted(folders["w8a8-int8"]).weight_bytes
    found = [load(folder).run({"input_ids": IDS})["logits"] for folder in (parts, folders["w8a8-int8"])]
    assert np.array_equal(*found)


@pytest.mark.slow
def test_layers_that_would_be_taken_for_unquantized_are_an_error(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for file in folders["w8a8-int8"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["ignore"] = ["lm_head", "re:.*q_proj"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ConversionFailed, SourceUnreadable)):
        load(tmp_path)


@pytest.mark.parametrize("name", ["w8a8-fp8", "w8a8-int8"])
def test_a_mixture_of_experts_is_not_called_checked(tmp_path: Path, name: str) -> None:
    model = source(tmp_path / "model", "mixtral")
    folder, _ = export(make_job(tmp_path, model, name))
    with pytest.raises(runners.NotChecked, match="experts"):
        load(folder)
    found = counted(folder)
    # Of four experts a token asks two.
    experts = 2 * 4 * 3 * 256 * 512
    stored = "int8" if name == "w8a8-int8" else "float8_e4m3"
    assert found.macs[stored] == 2 * (2 * 256 * 256 + 2 * 128 * 256) + experts // 2


def test_too_little_memory_is_said(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from modelport.targets import host

    monkeypatch.setattr(host, "available_bytes", lambda: 1 << 20)
    with pytest.raises(runners.NotChecked, match="of memory in float32"):
        load(folders["w8a8-int8"])


def test_packed_words_count_as_eight_weights_each(model: Path, tmp_path: Path) -> None:
    """A checkpoint in int4 of zeros, since what is counted are headers."""
    scheme = schemes.find("w4a16-gptq", calibrated=True)
    planned = layout.of(model, scheme)
    with shards.Writer(tmp_path, shards.plan(planned.stored), planned.stored) as writer:
        for tensor in planned.stored:
            writer.write(tensor.name, bytes(tensor.nbytes))
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = schemes.config(scheme, planned.ignore, "0.19.0")
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = counted(tmp_path)
    assert found.macs == {"bfloat16": MATRICES + found.apart["bfloat16"] // 2}
    # Half a byte a weight, two bytes of scale for 128 of them, and two numbers for the shape of each of 14.
    assert found.weight_bytes["int4"] == MATRICES // 2 + 2 * MATRICES // 128 + 14 * 16
