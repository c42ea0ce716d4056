"""The same bytes that llm-compressor's own `oneshot` writes: streamed, or layer by layer, with and without a kill."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from modelport.exporters.runtimes.vllm import layout, schemes, sequential, skeleton
from modelport.targets.errors import SourceUnreadable, Unsupported, UsageError
from vllm_jobs import compress, export, make_job, source

pytestmark = pytest.mark.slow

pytest.importorskip("llmcompressor")

WEIGHTS = "model.safetensors"
CALIBRATED = ("w4a16-gptq", "w4a16-awq", "w8a8-int8")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "llama": source(root / "llama", "llama"),
        "qwen2": source(root / "qwen2", "qwen2"),
        "mistral": source(root / "mistral", "mistral"),
    }


def theirs(model: Path, out: Path, name: str, *, calibrate: bool) -> Path:
    scheme = schemes.find(name, calibrated=calibrate)
    recipe = schemes.recipe(scheme, layout.of(model, scheme).ignore)
    return compress(model, out, recipe, calibrate=calibrate)


@pytest.mark.parametrize("name", ["w8a8-fp8", "w8a8-int8"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_streamed_weights_are_llm_compressors(
    models: dict[str, Path], tmp_path: Path, architecture: str, name: str
) -> None:
    model = models[architecture]
    ours, _ = export(make_job(tmp_path, model, name))
    other = theirs(model, tmp_path / "theirs", name, calibrate=False)
    assert (ours / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
    assert (ours / "config.json").read_bytes() == (other / "config.json").read_bytes()


@pytest.mark.parametrize("name", CALIBRATED)
def test_layers_one_by_one_are_llm_compressors(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    model = models["qwen2"]
    ours, _ = export(make_job(tmp_path, model, name, calibrated=True))
    other = theirs(model, tmp_path / "theirs", name, calibrate=True)
    assert (ours / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
    assert json.loads((ours / "config.json").read_text()) == json.loads((other / "config.json").read_text())


def test_gptq_of_llama_is_llm_compressors(models: dict[str, Path], tmp_path: Path) -> None:
    ours, _ = export(make_job(tmp_path, models["llama"], "w4a16-gptq", calibrated=True))
    other = theirs(models["llama"], tmp_path / "theirs", "w4a16-gptq", calibrate=True)
    assert (ours / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()


def test_all_that_differs_for_mistral_is_the_mask_that_oneshots_trace_loses(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llm-compressor 0.14 calibrates Mistral and Phi-3 as if each token saw the ones behind it too."""
    other = theirs(models["mistral"], tmp_path / "theirs", "w4a16-gptq", calibrate=True)
    ours, _ = export(make_job(tmp_path / "ours", models["mistral"], "w4a16-gptq", calibrated=True))
    embedded = skeleton.Skeleton.embedded

    def unmasked(built: skeleton.Skeleton, windows: Any) -> Any:
        states, arguments = embedded(built, windows)
        return states, [{**each, "attention_mask": None} for each in arguments]

    monkeypatch.setattr(skeleton.Skeleton, "embedded", unmasked)
    without, _ = export(make_job(tmp_path / "without", models["mistral"], "w4a16-gptq", calibrated=True))
    assert (without / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
    assert (ours / WEIGHTS).read_bytes() != (other / WEIGHTS).read_bytes()


def test_all_that_differs_for_gemma_is_the_rounding_of_its_norms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`oneshot` calibrates with 1 + weight rounded to bfloat16, which the model itself adds in float32."""
    model = source(tmp_path / "model", "gemma3", layers=2)
    ours, _ = export(make_job(tmp_path / "ours", model, "w4a16-gptq", calibrated=True))
    entry = importlib.import_module("llmcompressor.entrypoints.oneshot")
    monkeypatch.setattr(entry, "norm_calibration_context", lambda _: contextlib.nullcontext())
    other = theirs(model, tmp_path / "theirs", "w4a16-gptq", calibrate=True)
    assert (ours / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_run_that_was_killed_goes_on_and_writes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = source(tmp_path / "model", "qwen2", layers=3)
    whole, _ = export(make_job(tmp_path / "whole", model, name, calibrated=True))
    options = {"calibrated": True, "resume": str(tmp_path / "kept"), "source_sha256": "1"}
    worked: list[int] = []
    compressed = sequential._compressed

    def killed(planned: Any, index: int) -> Any:
        worked.append(index)
        if index == 1 and worked.count(1) == 1:
            raise KeyboardInterrupt
        return compressed(planned, index)

    monkeypatch.setattr(sequential, "_compressed", killed)
    with pytest.raises(KeyboardInterrupt):
        export(make_job(tmp_path / "killed", model, name, **options))
    assert json.loads((tmp_path / "kept" / "done.json").read_text()) == {"layers": 1}
    again, outcome = export(make_job(tmp_path / "again", model, name, **options))
    assert worked == [0, 1, 1, 2]
    assert (again / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert any("may be removed" in note for note in outcome.notes)
    # A third time, no layer is done at all.
    third, _ = export(make_job(tmp_path / "third", model, name, **options))
    assert worked == [0, 1, 1, 2]
    assert (third / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_folder_of_another_conversion_is_refused_by_what_differs(
    models: dict[str, Path], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    options: dict[str, Any] = {"calibrated": True, "resume": str(kept)}
    export(make_job(tmp_path / "a", models["qwen2"], "w4a16-gptq", **options, source_sha256="1"))
    for folder, name, sha, what in (("b", "w4a16-awq", "1", "recipe"), ("c", "w4a16-gptq", "2", "source")):
        with pytest.raises(UsageError, match=f"made with another {what}\\. Give"):
            export(make_job(tmp_path / folder, models["qwen2"], name, **options, source_sha256=sha))
    (kept / "layer-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(SourceUnreadable, match="header"):
        export(make_job(tmp_path / "d", models["qwen2"], "w4a16-gptq", **options, source_sha256="1"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        export(make_job(tmp_path / "e", models["qwen2"], "w4a16-gptq", calibrated=True, resume=str(other)))
    assert [file.name for file in other.iterdir()] == ["thesis.txt"]


def test_only_one_layer_has_weights_at_a_time(models: dict[str, Path], tmp_path: Path) -> None:
    model = models["qwen2"]
    built = skeleton.Skeleton(model, layout.of(model, schemes.find("w4a16-gptq", calibrated=True)))

    def real() -> set[str]:
        return {name.split(".")[2] for name, value in built.model.named_parameters() if not value.is_meta}

    assert real() == set()
    with built.filled(1):
        assert real() == {"1"}
    assert real() == set()


@pytest.mark.parametrize("name", ["w4a16-gptq", "w4a16-awq"])
def test_no_layer_leaves_tensors_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import torch

    alive: list[int] = []
    compressed = sequential._compressed

    def counting(planned: Any, index: int) -> Any:
        found = compressed(planned, index)
        gc.collect()
        held = {}
        for each in gc.get_objects():
            if type(each) in (torch.Tensor, torch.nn.Parameter) and not each.is_meta:
                held[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        alive.append(sum(held.values()))
        return found

    monkeypatch.setattr(sequential, "_compressed", counting)
    model = source(tmp_path / "model", "qwen2", layers=4)
    export(make_job(tmp_path, model, name, calibrated=True))
    assert len(alive) == 4
    # What the layer before gave is still held while the second one is done, and dropped then.
    assert alive[1] == alive[2] >= alive[3]


def test_a_sliding_window_model_is_calibrated_with_its_mask(tmp_path: Path) -> None:
    model = source(tmp_path / "model", "mistral", config={"sliding_window": 8})
    built = skeleton.Skeleton(model, layout.of(model, schemes.find("w4a16-gptq", calibrated=True)))
    import numpy as np

    states, arguments = built.embedded(np.arange(5, 29)[None])
    mask = arguments[0]["attention_mask"][0, 0].float().numpy() == 0
    rows, columns = np.indices(mask.shape)
    assert np.array_equal(mask, (columns <= rows) & (columns > rows - 8))
    assert (len(states), states[0].shape) == (1, (1, 24, 256))
    assert len(arguments) == 2


def test_an_architecture_that_cannot_be_mapped_is_one_error(tmp_path: Path) -> None:
    # OLMo 2 normalises behind its layers: there is nothing to smooth.
    model = source(tmp_path / "model", "olmo2")
    with pytest.raises(Unsupported, match="cannot work on this architecture"):
        export(make_job(tmp_path, model, "w8a8-int8", calibrated=True))
    export(make_job(tmp_path / "gptq", model, "w4a16-gptq", calibrated=True))
