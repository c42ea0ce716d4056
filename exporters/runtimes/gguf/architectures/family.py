"""What one architecture says about itself, and the model that it is asked about."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .....sources.files.jsonfile import Fields
from .....sources.huggingface import checkpoint, decoders
from .....targets.errors import Unsupported
from .....targets.facts import LlmFacts
from ..blueprint import Tensor, Transform
from .covered import require_covered

MOST_LAYERS = 512
"""LLAMA_MAX_LAYERS in llama-hparams.h."""


@dataclass(frozen=True)
class Model:
    """A checkpoint's folder and what its config.json says, defaults filled in."""

    folder: Path
    architecture: str
    """The class name in config.json's architectures."""
    config: Fields
    facts: LlmFacts


def keep(model: Model, name: str) -> tuple[Transform, int]:
    """Rows as they are stored."""
    return "keep", 0


def none(model: Model) -> tuple[Tensor, ...]:
    """No tensors beside the checkpoint's."""
    return ()


def nothing(model: Model, writer: Any) -> None:
    """No keys."""


@dataclass(frozen=True)
class Family:
    """How llama.cpp wants one architecture: its keys, and its tensors as they follow from the checkpoint's."""

    arch: str
    """Name of the member of gguf.MODEL_ARCH."""
    parameters: Callable[[Model, Any], None]
    """Adds the architecture's keys to a GGUFWriter, in the converter's order."""
    transform: Callable[[Model, str], tuple[Transform, int]] = keep
    """What becomes of the weight of that name, and the heads that it is permuted within."""
    computed: Callable[[Model], tuple[Tensor, ...]] = none
    """Tensors that follow from config.json."""
    first: Callable[[Model, Any], None] = nothing
    """Adds keys that stand before general.type: those that the converter adds while it lists the tensors."""
    dropped: tuple[str, ...] = ()
    """Weights that llama.cpp does not read."""


def read_model(folder: Path) -> Model:
    """The model in `folder`, from config.json alone.

    Raises Unsupported for an architecture that is not covered or whose model_type says something else and
    for weights that are quantized already, and SourceUnreadable for figures that are missing or of the wrong
    type.
    """
    raw = checkpoint.read_config(folder)
    architecture = (*checkpoint.architectures(raw), "")[0]
    model_type = require_covered(architecture).model_type
    values = decoders.complete(raw).values
    if values.get("quantization_config") is not None:
        raise Unsupported(
            "the checkpoint is quantized already",
            where=raw.where("quantization_config"),
            mend="Start from the original weights, or from a GGUF file",
        )
    if values.get("model_type") is None:
        raw = Fields({**raw.values, "model_type": model_type}, raw.file)
    config = decoders.complete(raw)
    if config.text("model_type") != model_type:
        raise Unsupported(
            f"{config.text('model_type')!r} contradicts the architecture {architecture}",
            where=config.where("model_type"),
            mend=f"{architecture} is covered with the model_type {model_type!r}",
        )
    facts = decoders.geometry(config, architecture)
    if facts.layers > MOST_LAYERS:
        fact = f"llama.cpp takes at most {MOST_LAYERS} layers, not {facts.layers:,}"
        raise Unsupported(fact, where=config.where("num_hidden_layers"))
    return Model(folder, architecture, config, facts)


def find(architecture: str) -> Family:
    """The description of a covered architecture."""
    module = importlib.import_module(f"..{require_covered(architecture).module}", __name__)
    family: Family = module.FAMILIES[architecture]
    return family


def require_activation(model: Model, known: tuple[str, ...], *keys: str) -> None:
    """Refuse an activation function other than the one that llama.cpp computes for the architecture."""
    key = next((key for key in keys if model.config.values.get(key) is not None), None)
    if key is not None and model.config.text(key) not in known:
        raise Unsupported(
            f"{model.config.text(key)!r} is not what llama.cpp computes for {model.architecture}",
            where=model.config.where(key),
            mend=f"It computes {known[0]}",
        )
