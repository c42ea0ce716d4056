"""GPT-2: learned positions, layer norms with bias, and matrices that are stored transposed."""

from __future__ import annotations

from typing import Any

from .....targets.errors import Unsupported
from ..blueprint import Transform
from .family import Family, Model, require_activation

_MATRICES = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


def _parameters(model: Model, writer: Any) -> None:
    config, facts = model.config, model.facts
    require_activation(model, ("gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast"), "activation_function")
    for key, wanted in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        if config.flag(key, wanted) != wanted:
            fact = f"llama.cpp computes GPT-2 with {str(wanted).lower()} alone"
            raise Unsupported(fact, where=config.where(key))
    writer.add_block_count(facts.layers)
    # transformers 5 no longer writes n_ctx, which was n_positions by another name.
    writer.add_context_length(config.integer("n_ctx", facts.context, high=(1 << 32) - 1))
    writer.add_embedding_length(facts.hidden)
    writer.add_feed_forward_length(facts.intermediate)
    writer.add_head_count(facts.heads)
    writer.add_layer_norm_eps(config.number("layer_norm_epsilon", 1e-5))


def _transform(model: Model, name: str) -> tuple[Transform, int]:
    return ("transpose", 0) if name.endswith(_MATRICES) else ("keep", 0)


FAMILIES = {"GPT2LMHeadModel": Family("GPT2", _parameters, _transform)}
