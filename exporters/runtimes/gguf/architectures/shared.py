"""Keys that most architectures have in common, in the order of llama.cpp's converter."""

from __future__ import annotations

from typing import Any

from .....targets.errors import SourceUnreadable
from . import rope
from .family import Model

_SIZES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("add_context_length", ("max_position_embeddings", "n_ctx", "n_positions")),
    ("add_embedding_length", ("hidden_size", "n_embd")),
    ("add_feed_forward_length", ("intermediate_size", "n_inner")),
    ("add_head_count", ("num_attention_heads", "n_head")),
)
_NORMS: tuple[str, ...] = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
_EXPERTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("add_expert_count", ("num_local_experts", "num_experts")),
    ("add_expert_used_count", ("num_experts_per_tok", "num_experts_per_token")),
)
"""GGUFWriter's methods, and the fields of config.json whose first that is there gives the value."""


def add(
    model: Model, writer: Any, *, head_dim: int | None = None, rope_parameters: rope.Rope | None = None
) -> None:
    """Add the common keys. `head_dim`: what transformers assumes where config.json does not say."""
    config = model.config
    if model.facts.head_dim % 2:
        fact = f"{model.facts.head_dim} is odd, and rotation turns pairs"
        raise SourceUnreadable(fact, where=config.where("head_dim"))
    writer.add_block_count(model.facts.layers)
    for method, keys in _SIZES:
        _integer(model, writer, method, keys)
    writer.add_head_count_kv(model.facts.kv_heads)
    if not config.flag("is_causal", True):
        writer.add_causal_attention(False)
    rope.add(model, writer, rope_parameters)
    writer.add_layer_norm_rms_eps(config.number("norm_eps" if _given(model, "norm_eps") else "rms_norm_eps"))
    key = next((key for key in _NORMS if _given(model, key)), None)
    if key is not None:
        writer.add_layer_norm_eps(config.number(key))
    for method, keys in _EXPERTS:
        _integer(model, writer, method, keys)
    width = (
        config.integer("head_dim", head_dim, high=1 << 16) if head_dim or _given(model, "head_dim") else None
    )
    if width is not None:
        writer.add_key_length(width)
        writer.add_value_length(width)


def _given(model: Model, key: str) -> bool:
    return model.config.values.get(key) is not None


def _integer(model: Model, writer: Any, method: str, keys: tuple[str, ...]) -> None:
    key = next((key for key in keys if _given(model, key)), None)
    if key is not None:
        getattr(writer, method)(model.config.integer(key, high=(1 << 32) - 1))
