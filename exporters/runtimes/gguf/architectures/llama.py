"""Llama and the models with its layers: Mistral, Mixtral, SmolLM, SmolLM3."""

from __future__ import annotations

from typing import Any

from .....targets.errors import Unsupported
from ..blueprint import Transform
from . import rope, shared
from .family import Family, Model, require_activation


def _parameters(model: Model, writer: Any) -> None:
    require_activation(model, ("silu", "swish"), "hidden_act")
    # transformers works a missing head_dim out for Llama and Mistral alone, and the keys show that.
    stated = model.architecture in ("LlamaForCausalLM", "MistralForCausalLM")
    assumed = model.facts.head_dim if stated else None
    shared.add(model, writer, head_dim=assumed)
    writer.add_vocab_size(model.facts.vocab)
    writer.add_rope_dimension_count(model.facts.head_dim)


def _smollm3(model: Model, writer: Any) -> None:
    # llama.cpp leaves the rotation out in every fourth layer and reads no key about it.
    layers = range(model.facts.layers)
    wanted = [int((index + 1) % 4 != 0) for index in layers]
    given = model.config.values.get("no_rope_layers")
    if given is None:
        interval = model.config.integer("no_rope_layer_interval", 4)
        given = [int((index + 1) % interval != 0) for index in layers]
    if not isinstance(given, list) or given[: len(wanted)] != wanted:
        where = model.config.where("no_rope_layers")
        raise Unsupported("llama.cpp rotates all but every fourth layer, not these", where=where)
    _parameters(model, writer)


def _transform(model: Model, name: str) -> tuple[Transform, int]:
    """transformers rotates the two halves of a head, llama.cpp the pairs: q and k change their rows."""
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        return "permute", model.facts.heads
    if name.endswith(("k_proj.weight", "k_proj.bias")):
        return "permute", model.facts.kv_heads
    return "keep", 0


_LLAMA = Family("LLAMA", _parameters, _transform, rope.frequencies)
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "MixtralForCausalLM": _LLAMA,
    "SmolLM3ForCausalLM": Family("SMOLLM3", _smollm3, _transform, rope.frequencies),
}
