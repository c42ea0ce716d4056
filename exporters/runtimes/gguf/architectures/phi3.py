"""Phi-3 and Phi-4: fused matrices, and factors for contexts longer than the original as tensors."""

from __future__ import annotations

import math
from typing import Any

from .....sources.files.jsonfile import Fields
from .....targets.errors import SourceUnreadable, Unsupported
from ..blueprint import Tensor
from . import rope
from .family import Family, Model, require_activation

_LIMIT = (1 << 32) - 1


def _rope(model: Model) -> Fields:
    """The parameters; transformers takes "su" and "yarn" here for older names of longrope."""
    fields = rope.read(model).full
    kind = fields.text("rope_type")
    if kind not in ("default", "longrope", "su", "yarn"):
        where = fields.where("rope_type")
        raise Unsupported(f"the scaling {kind!r} is not known", where=where, mend="Known: default, longrope")
    values = {"partial_rotary_factor": 1.0, **fields.values}
    original = model.config.integer("original_max_position_embeddings", 4096, high=_LIMIT)
    if kind in ("longrope", "yarn"):
        # The field beside the parameters goes first.
        values["original_max_position_embeddings"] = original
    values.setdefault("original_max_position_embeddings", original)
    return Fields(values, fields.file)


def _rotated(model: Model, parameters: Fields) -> int:
    """Dimensions of a head that are rotated."""
    share = parameters.number("partial_rotary_factor")
    if not 0 < share <= 1:
        where = parameters.where("partial_rotary_factor")
        raise SourceUnreadable(f"{share} is not between 0 and 1", where=where)
    return int(share * model.facts.hidden) // model.facts.heads


def _parameters(model: Model, writer: Any) -> None:
    config, facts, parameters = model.config, model.facts, _rope(model)
    require_activation(model, ("silu", "swish"), "hidden_act")
    original = parameters.integer("original_max_position_embeddings", high=_LIMIT)
    writer.add_context_length(facts.context)
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_embedding_length(facts.hidden)
    writer.add_feed_forward_length(facts.intermediate)
    writer.add_block_count(facts.layers)
    writer.add_head_count(facts.heads)
    writer.add_head_count_kv(facts.kv_heads)
    writer.add_layer_norm_rms_eps(config.number("rms_norm_eps"))
    writer.add_rope_dimension_count(_rotated(model, parameters))
    writer.add_rope_freq_base(parameters.number("rope_theta"))
    # 0 tells llama.cpp's Phi-4 from the others, which have a window.
    writer.add_sliding_window(config.integer("sliding_window", 0, low=0, high=_LIMIT))


def _attention_factor(model: Model, writer: Any) -> None:
    """sqrt(1 + ln(s) / ln(original)), s the context by the original one (transformers, longrope)."""
    parameters = _rope(model)
    if not parameters.values.get("long_factor"):
        return
    original = parameters.integer("original_max_position_embeddings", low=2, high=_LIMIT)
    scale = model.facts.context / original
    factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1.0 else 1.0
    writer.add_rope_scaling_attn_factors(factor)


def _factors(model: Model) -> tuple[Tensor, ...]:
    """The two lists of factors, one number for each rotated pair."""
    parameters = _rope(model)
    if not parameters.values.get("long_factor"):
        return ()
    wanted, found = _rotated(model, parameters) // 2, []
    for name in ("long", "short"):
        key = f"{name}_factor"
        values = parameters.values.get(key)
        if not isinstance(values, list) or len(values) != wanted:
            raise SourceUnreadable(f"a list of {wanted} numbers is expected", where=parameters.where(key))
        each = Fields({str(n): value for n, value in enumerate(values)}, parameters.where(key))
        numbers = tuple(each.number(str(n)) for n in range(wanted))
        found.append(Tensor(f"rope_factors_{name}.weight", (wanted,), values=numbers, float32=True))
    return tuple(found)


FAMILIES = {
    "Phi3ForCausalLM": Family("PHI3", _parameters, computed=_factors, first=_attention_factor),
}
