"""OLMo 2: Llama's matrices, with norms behind attention and feed-forward and over all of q and k."""

from __future__ import annotations

from typing import Any

from . import shared
from .family import Family, Model, require_activation


def _parameters(model: Model, writer: Any) -> None:
    require_activation(model, ("silu", "swish"), "hidden_act")
    shared.add(model, writer)


FAMILIES = {"Olmo2ForCausalLM": Family("OLMO2", _parameters)}
