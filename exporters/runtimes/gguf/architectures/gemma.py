"""Gemma 1, 2 and 3: norms stored around zero, soft caps, layers that take turns with a sliding window."""

from __future__ import annotations

from typing import Any

from .....sources.files.jsonfile import Fields
from .....targets.errors import Unsupported
from ..blueprint import Transform
from . import rope, shared
from .family import Family, Model, require_activation

_GELU = ("gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast")
_LOCAL = "sliding_attention"


def _gemma(model: Model, writer: Any) -> None:
    config, facts = model.config, model.facts
    require_activation(model, _GELU, "hidden_activation", "hidden_act")
    writer.add_context_length(facts.context)
    writer.add_embedding_length(facts.hidden)
    writer.add_block_count(facts.layers)
    writer.add_feed_forward_length(facts.intermediate)
    writer.add_head_count(facts.heads)
    writer.add_head_count_kv(facts.kv_heads)
    writer.add_layer_norm_rms_eps(config.number("rms_norm_eps"))
    writer.add_key_length(facts.head_dim)
    writer.add_value_length(facts.head_dim)


def _gemma2(model: Model, writer: Any) -> None:
    config = model.config
    _require(model, 2)
    _gemma(model, writer)
    writer.add_attn_logit_softcapping(config.number("attn_logit_softcapping"))
    writer.add_final_logit_softcapping(config.number("final_logit_softcapping"))
    writer.add_sliding_window(config.integer("sliding_window", high=(1 << 32) - 1))


def _gemma3(model: Model, writer: Any) -> None:
    config = model.config
    pattern = config.integer("sliding_window_pattern", 6, high=10_000)
    if pattern not in (1, 6):
        fact = f"llama.cpp lets one layer in 6 see everything, or all of them, not one in {pattern}"
        raise Unsupported(fact, where=config.where("sliding_window_pattern"))
    _require(model, pattern)
    if config.values.get("attn_logit_softcapping") is not None:
        where = config.where("attn_logit_softcapping")
        raise Unsupported("llama.cpp computes Gemma 3 without this cap", where=where)
    if config.flag("use_bidirectional_attention", False):
        where = config.where("use_bidirectional_attention")
        raise Unsupported("this model reads text in both directions and does not write any", where=where)
    shared.add(model, writer, rope_parameters=_rope(model))
    if config.values.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config.number("final_logit_softcapping"))
    if pattern != 1:
        writer.add_sliding_window(config.integer("sliding_window", high=(1 << 32) - 1))


def _rope(model: Model) -> rope.Rope:
    """Gemma 3 rotates its local layers by another base; older configs say so beside rope_theta."""
    found = rope.read(model)
    if found.sliding is not None:
        return found
    base = model.config.number("rope_local_base_freq", 10_000.0)
    return rope.Rope(found.full, Fields({"rope_theta": base}, model.config.file))


def _require(model: Model, pattern: int) -> None:
    """llama.cpp knows which layers see a window only by counting: every `pattern`th one sees everything."""
    require_activation(model, _GELU, "hidden_activation", "hidden_act")
    given = model.config.values.get("layer_types")
    wanted = ["full_attention" if (n + 1) % pattern == 0 else _LOCAL for n in range(model.facts.layers)]
    if given is not None and given != wanted:
        raise Unsupported(
            f"llama.cpp lets every layer but each {pattern}th see a window, and this model has another order",
            where=model.config.where("layer_types"),
        )
    _require_scale(model)


def _require_scale(model: Model) -> None:
    """llama.cpp scales by the root of a head's width, and by that of hidden / heads in the two 27B models."""
    facts, largest = model.facts, {"gemma2": 46, "gemma3_text": 62}
    is_27b = facts.layers == largest.get(model.config.text("model_type"))
    width = facts.hidden // facts.heads if is_27b else facts.head_dim
    scale = model.config.number("query_pre_attn_scalar", 256)
    if scale != width:
        raise Unsupported(
            f"llama.cpp scales attention by the root of {width} in a model of this shape, not of {scale:g}",
            where=model.config.where("query_pre_attn_scalar"),
        )


def _transform(model: Model, name: str) -> tuple[Transform, int]:
    return ("plus one", 0) if name.endswith("norm.weight") else ("keep", 0)


_DROPPED = ("lm_head.weight",)
FAMILIES = {
    "GemmaForCausalLM": Family("GEMMA", _gemma, _transform, dropped=_DROPPED),
    "Gemma2ForCausalLM": Family("GEMMA2", _gemma2, _transform, dropped=_DROPPED),
    "Gemma3ForCausalLM": Family("GEMMA3", _gemma3, _transform),
}
