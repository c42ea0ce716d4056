"""The table of sources and targets, cell by cell: what is filled converts and verifies, what is empty says why."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf_jobs
import modelport
import tiny_llms
from modelport.sources.source import KINDS
from modelport.targets import registry
from modelport.targets.card import QuantScheme, Target
from modelport.targets.errors import MissingExtra, Unsupported

pytestmark = pytest.mark.slow

DIGITS = {
    "torch-exported": "digits.pt2", "onnx": "digits.onnx", "saved-model": "digits_saved_model", "keras": "digits.keras",
}  # fmt: skip
"""Kinds that examples/digits/train.py writes one model as."""

SECONDS = 2.0
"""Longest that a refusal may take."""

CELLS = [(target, kind) for target in registry.targets() for kind in KINDS]
FILLED = [(t, kind) for t, kind in CELLS if t.refusal(kind) is None and registry.exporter_available(t)]
EMPTY = [(t, kind) for t, kind in CELLS if t.refusal(kind) is not None]


def named(cells: list[tuple[Target, str]]) -> list[Any]:
    return [pytest.param(target, kind, id=f"{kind}-{target.name}") for target, kind in cells]


def cheapest(target: Target) -> QuantScheme:
    """The scheme with the most bits that needs no data, or the least."""
    order = ("none", "optional", "required")
    return min(target.schemes.values(), key=lambda s: (order.index(s.calibration), -s.weight_bits))


def residual_net(folder: Path) -> Path:
    """A Hugging Face directory of a small image classifier; weights large enough for a signal to come through."""
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    model = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(**sizes, num_labels=10, image_size=32)
    ).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model of each kind of source: the digits CNN, or a tiny one that has no other form."""

    @functools.cache
    def made(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        if kind in DIGITS:
            return digits / DIGITS[kind]
        if kind == "huggingface":
            return residual_net(folder)
        if kind == "causal-lm":
            return tiny_llms.make("llama", folder)
        if kind == "gguf":
            return gguf_jobs.export(gguf_jobs.make_job(folder, made("causal-lm"), "f16"))[0]
        raise AssertionError(f"no model of kind {kind}: add one")

    return made


def data_for(target: Target, kind: str, digits: Path, folder: Path) -> dict[str, Any]:
    """Few samples, and the user's own where the scheme wants them."""
    if target.verify == "language":
        return {"samples": 4, "held_out": 2, "sequence": 32, "threads": 1}
    if cheapest(target).calibration == "none":
        return {"samples": 10, "held_out": 4}
    if kind in DIGITS:
        return {"samples": 40, "held_out": 8, "calibration": str(digits / "images")}
    images = np.random.default_rng(0).normal(size=(20, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "images.npz", pixel_values=images)
    return {"held_out": 4, "calibration": str(folder / "images.npz")}


@pytest.mark.parametrize(("target", "kind"), named(FILLED))
def test_a_filled_cell_converts_and_verifies(
    target: Target, kind: str, model: Callable[[str], Path], digits: Path, tmp_path: Path
) -> None:
    scheme, out = cheapest(target), tmp_path / "out"
    options = data_for(target, kind, digits, tmp_path)
    try:
        done = modelport.convert(model(kind), target=target.name, quant=scheme.name, out=out, **options)
    except MissingExtra as error:
        pytest.skip(str(error))
    manifest = done.manifest
    assert (manifest["source"]["kind"], manifest["target"]) == (kind, target.name)
    assert manifest["audit"]["refused"] is False
    assert not manifest["not_checked"]
    for figures in manifest["fidelity"]["outputs"].values():
        assert figures["cosine"] >= scheme.min_cosine
    # The conversion has opened and run the written files; once a target, the published folder is run again too.
    if kind == target.sources[0]:
        again = modelport.verify(out)
        assert again["fidelity"]["outputs"].keys() == manifest["fidelity"]["outputs"].keys()


@pytest.mark.parametrize(("target", "kind"), named(EMPTY))
def test_an_empty_cell_is_refused_at_once_with_its_reason(
    target: Target, kind: str, model: Callable[[str], Path], tmp_path: Path
) -> None:
    path, out = model(kind), tmp_path / "out"
    refusal = target.refusal(kind)
    assert refusal is not None
    started = time.perf_counter()
    with pytest.raises(Unsupported) as caught:
        modelport.convert(path, target=target.name, out=out)
    assert time.perf_counter() - started < SECONDS
    assert refusal.reason in str(caught.value)
    assert refusal.nearest in str(caught.value)
    assert not out.exists()


def test_every_refusal_of_the_catalogue_was_thought_of() -> None:
    for target, kind in EMPTY:
        assert kind in target.refused, f"{target.name}: [refused.{kind}] is missing"
