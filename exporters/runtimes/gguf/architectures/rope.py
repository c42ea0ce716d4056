"""Rotary position embedding: what config.json says about it in either form, and the keys and factors for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .....sources.files.jsonfile import Fields, kind_of
from .....targets.errors import SourceUnreadable, Unsupported
from ..blueprint import Tensor
from .family import Model

WITHOUT_KEYS = ("default", "dynamic", "llama3")
"""Types that llama.cpp reads no type for: llama3 is a tensor of factors."""
KNOWN = (*WITHOUT_KEYS, "linear", "yarn", "longrope", "su")
BASES = {"smollm3": 2_000_000.0, "mixtral": 1_000_000.0, "gemma3_text": 1_000_000.0}
"""rope_theta where config.json does not say and transformers does not assume 10,000."""
_SCALED = ("llama3", "yarn", "longrope")


@dataclass(frozen=True)
class Rope:
    """The parameters of the layers that attend to everything, and of those with a sliding window."""

    full: Fields
    sliding: Fields | None = None

    @property
    def type(self) -> str:
        """The name of the scaling; "default" for none."""
        return self.full.text("rope_type")


def read(model: Model) -> Rope:
    """The parameters, from transformers 5's `rope_parameters` or the older `rope_theta` and `rope_scaling`.

    Raises SourceUnreadable for wrong types, and Unsupported for a type of scaling that is not known.
    """
    key, raw = given(model)
    theta = BASES.get(model.config.text("model_type"), 10_000.0)
    if "full_attention" not in raw and "sliding_attention" not in raw:
        return Rope(_complete(model, raw, key, theta))
    nested = Fields(raw, f"{model.config.file}: {key}")
    full, sliding = (dict(_object(nested, name)) for name in ("full_attention", "sliding_attention"))
    return Rope(
        _complete(model, full, f"{key}.full_attention", theta),
        _complete(model, sliding, f"{key}.sliding_attention", theta) if sliding else None,
    )


def given(model: Model) -> tuple[str, dict[str, Any]]:
    """The field of config.json that says how to rotate, and what it holds: a copy, {} for nothing."""
    key = "rope_scaling" if model.config.values.get("rope_scaling") else "rope_parameters"
    return key, dict(_object(model.config, key))


def _object(fields: Fields, key: str) -> dict[str, Any]:
    value = fields.values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SourceUnreadable(f"an object is expected, not {kind_of(value)}", where=fields.where(key))
    return value


def _complete(model: Model, values: dict[str, Any], key: str, theta: float) -> Fields:
    """The parameters with what transformers fills in: type, base and the length before scaling."""
    config = model.config
    values.setdefault("rope_theta", config.values.get("rope_theta", theta))
    values.setdefault("rope_type", values.get("type", "default"))
    if values["rope_type"] in _SCALED:
        values.setdefault("original_max_position_embeddings", model.facts.context)
    for name in ("partial_rotary_factor", "original_max_position_embeddings"):
        if config.values.get(name) is not None:
            values.setdefault(name, config.values[name])
    fields = Fields(values, f"{config.file}: {key}")
    kind = fields.text("rope_type")
    if kind not in KNOWN:
        raise Unsupported(
            f"the scaling {kind!r} is not known",
            where=fields.where("rope_type"),
            mend=f"Known: {', '.join(KNOWN)}",
        )
    return fields


def add(model: Model, writer: Any, rope: Rope | None = None) -> None:
    """Add the keys of scaling and base to a GGUFWriter."""
    import gguf

    rope = rope or read(model)
    full = rope.full
    if rope.type == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(full.number("factor"))
    elif rope.type == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(full.number("factor"))
        _add_yarn(full, writer)
    elif rope.type in ("su", "longrope"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    writer.add_rope_freq_base(full.number("rope_theta"))
    if rope.sliding is not None:
        writer.add_rope_freq_base_swa(rope.sliding.number("rope_theta"))


def _add_yarn(full: Fields, writer: Any) -> None:
    writer.add_rope_scaling_orig_ctx_len(full.integer("original_max_position_embeddings", high=(1 << 32) - 1))
    attention = "attention_factor" if "attention_factor" in full.values else "attn_factor"
    for method, key in (
        ("add_rope_scaling_yarn_ext_factor", "extrapolation_factor"),
        ("add_rope_scaling_yarn_attn_factor", attention),
        ("add_rope_scaling_yarn_beta_fast", "beta_fast"),
        ("add_rope_scaling_yarn_beta_slow", "beta_slow"),
    ):
        if full.values.get(key) is not None:
            getattr(writer, method)(full.number(key))


def frequencies(model: Model) -> tuple[Tensor, ...]:
    """Llama 3's factors, one for each rotated pair, as the tensor `rope_freqs.weight`; none for other types.

    A pair of a wavelength below original / high_freq_factor keeps its frequency, one above original /
    low_freq_factor is slowed by `factor`, and between them the two are mixed linearly in original /
    wavelength (transformers, modeling_rope_utils._compute_llama3_parameters). In 32-bit float, operation by
    operation as torch does it, so that the numbers are the converter's.
    """
    import numpy as np

    full = read(model).full
    if full.text("rope_type") != "llama3":
        return ()
    dim = model.facts.head_dim
    base, factor = np.float32(full.number("rope_theta")), full.number("factor", 8.0)
    low, high = full.number("low_freq_factor", 1.0), full.number("high_freq_factor", 4.0)
    original = full.integer("original_max_position_embeddings", 8192)
    for key, value in (
        ("rope_theta", base),
        ("factor", factor),
        ("low_freq_factor", low),
        ("high_freq_factor", high),
    ):
        if value <= 0:
            raise SourceUnreadable(f"{value} is not above 0", where=full.where(key))
    if high <= low:
        where = full.where("high_freq_factor")
        raise SourceUnreadable(f"{high} is not above low_freq_factor, {low}", where=where)
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    one, single = np.float32(1), np.float32
    # The power in 64 bits: torch's is rounded nearly correctly, and numpy's 32-bit one is not.
    wavelengths = (one / (one / (np.float64(base) ** exponents.astype(np.float64)).astype(single))) * single(
        2 * math.pi
    )
    factors = []
    for wavelength in wavelengths:
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = ((one / wavelength) * single(original) - single(low)) / single(high - low)
            factors.append(float(one / ((one - smooth) / single(factor) + smooth)))
    return (Tensor("rope_freqs.weight", (len(factors),), values=tuple(factors), float32=True),)
