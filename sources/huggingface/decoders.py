"""Decoder-only language models of transformers: their geometry and the weights that config.json implies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...targets.errors import SourceUnreadable
from ...targets.facts import LlmFacts
from ..files.jsonfile import Fields, kind_of


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the feed-forward part: a router, and matrices for each expert."""

    part: str
    """The layer's part that holds `gate` and `experts`."""
    names: tuple[str, str, str]
    """What gate, up and down are called in each expert."""
    count: str
    """The field of config.json that holds the number of experts."""
    intermediate: str
    """The field that holds an expert's inner width."""


@dataclass(frozen=True)
class Family:
    """How one model type differs from Llama in its weights, and what transformers assumes for it."""

    qkv_bias: bool | None = None
    """Bias on q, k and v alone (Qwen2: True) or nowhere (False); None where attention_bias says."""
    qk_norm: Literal["", "head", "all"] = ""
    """RMS normalisation of q and k, of each head (Qwen3) or of all heads together (OLMo 2)."""
    fused: bool = False
    """q, k and v in one matrix, gate and up in another (Phi-3)."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    tied: bool = False
    """Whether embeddings are tied when config.json does not say."""
    experts: Experts | None = None
    """The mixture of experts in the layers that have one."""
    mlp_bias: bool = False
    """Whether mlp_bias in config.json is read."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers' config class assumes for a field that config.json leaves out, where it matters."""


_GEMMA_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)  # fmt: skip
_GEMMA = {"head_dim": 256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "sliding_window": 4096}
_QWEN = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6}
FAMILIES: Mapping[str, Family] = {
    "llama": Family(mlp_bias=True, defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}),
    "mistral": Family(
        qkv_bias=False,
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6},
    ),
    "smollm3": Family(tied=True, mlp_bias=True, defaults={**_QWEN, "num_key_value_heads": 4}),
    "qwen2": Family(qkv_bias=True, defaults=_QWEN),
    "qwen3": Family(qk_norm="head", defaults={**_QWEN, "head_dim": 128}),
    "qwen3_moe": Family(
        qk_norm="head",
        experts=Experts("mlp", ("gate_proj", "up_proj", "down_proj"), "num_experts", "moe_intermediate_size"),
        defaults={
            **_QWEN,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        },
    ),
    "mixtral": Family(
        qkv_bias=False,
        experts=Experts("block_sparse_moe", ("w1", "w3", "w2"), "num_local_experts", "intermediate_size"),
        defaults={
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    ),
    "olmo2": Family(
        qk_norm="all",
        norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
    ),
    "gemma": Family(tied=True, defaults={**_GEMMA, "num_key_value_heads": 16}),
    "gemma2": Family(
        tied=True,
        norms=_GEMMA_NORMS,
        defaults={
            **_GEMMA,
            "num_key_value_heads": 4,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    "gemma3_text": Family(
        tied=True,
        qk_norm="head",
        norms=_GEMMA_NORMS,
        defaults={**_GEMMA, "num_key_value_heads": 4, "max_position_embeddings": 131072},
    ),
    "phi3": Family(
        qkv_bias=False, fused=True, defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    ),
}
"""Model types with Llama's names whose weights are checked; GPT-2 has a function of its own."""

MOST_EXPERTS = 1 << 16
"""Experts of all layers together; the largest models have some 25,000."""
TIED_BY_DEFAULT = ("gpt2", "gpt_neo", "gptj", "opt", "bloom", "falcon")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "intermediate": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "experts_per_token": ("num_experts_per_tok", "num_experts_per_token"),
}
"""What different families call the same figure in config.json."""


def _first(config: Fields, what: str) -> str:
    """The key under which config.json holds the figure; the usual one when it holds none."""
    keys = _KEYS[what]
    return next((key for key in keys if config.values.get(key) is not None), keys[0])


def complete(config: Fields) -> Fields:
    """config.json as transformers reads it: a nested text_config lifted, and the family's own defaults.

    What stands in config.json goes first, null too. Raises SourceUnreadable for a text_config that is no
    object.
    """
    values = dict(config.values)
    nested = values.pop("text_config", None)
    if nested is not None and not isinstance(nested, dict):
        fact = f"an object is expected, not {kind_of(nested)}"
        raise SourceUnreadable(fact, where=config.where("text_config"))
    values.update(nested or {})
    model_type = values.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    return Fields({**(family.defaults if family else {}), **values}, config.file)


def geometry(config: Fields, architecture: str) -> LlmFacts:
    """The figures that memory and speed of a decoder follow from.

    Raises SourceUnreadable for a figure that is missing, of the wrong type, or contradicts another.
    """
    config = complete(config)
    model_type = config.text("model_type", "")
    hidden = config.integer(_first(config, "hidden"), high=1 << 24)
    heads = config.integer(_first(config, "heads"), high=1 << 16)
    old_multi_query = config.flag("multi_query", False) and not config.flag("new_decoder_architecture", False)
    kv_key = "num_key_value_heads" if "num_key_value_heads" in config.values else "num_kv_heads"
    kv_heads = config.integer(kv_key, 1 if old_multi_query else heads, high=1 << 16)
    if heads % kv_heads:
        fact = f"{heads} heads are no multiple of {kv_heads} key-value heads"
        raise SourceUnreadable(fact, where=config.where(kv_key))
    if config.values.get("head_dim") is None and hidden % heads:
        fact = f"{hidden} is no multiple of {heads} heads, and head_dim is not given"
        raise SourceUnreadable(fact, where=config.where(_first(config, "hidden")))
    tied = FAMILIES[model_type].tied if model_type in FAMILIES else model_type in TIED_BY_DEFAULT
    return LlmFacts(
        architecture=architecture,
        layers=config.integer(_first(config, "layers"), high=10_000),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=config.integer("head_dim", hidden // heads, high=1 << 16),
        intermediate=config.integer(_first(config, "intermediate"), 4 * hidden, high=1 << 24),
        vocab=config.integer("vocab_size", high=1 << 28),
        context=config.integer(_first(config, "context"), 2048, high=1 << 32),
        tied_embeddings=config.flag("tie_word_embeddings", tied),
        experts=config.integer(_first(config, "experts"), 0, low=0, high=1 << 16),
        experts_per_token=config.integer(_first(config, "experts_per_token"), 0, low=0, high=1 << 16),
    )


def expected(config: Fields, facts: LlmFacts) -> dict[str, tuple[int, ...]]:
    """Weights and shapes that the model must have; empty for a model type that is not described here."""
    config = complete(config)
    model_type = config.text("model_type", "")
    if model_type == "gpt2":
        return dict(_gpt2(facts))
    family = FAMILIES.get(model_type)
    return dict(_llama(config, facts, family)) if family else {}


def base(config: Fields) -> str:
    """The prefix of every weight but the head's, which a checkpoint of the bare model leaves out."""
    return "transformer." if complete(config).text("model_type", "") == "gpt2" else "model."


Weight = tuple[str, tuple[int, ...]]


def _llama(config: Fields, facts: LlmFacts, family: Family) -> Iterator[Weight]:
    yield "model.embed_tokens.weight", (facts.vocab, facts.hidden)
    yield "model.norm.weight", (facts.hidden,)
    if not facts.tied_embeddings:
        yield "lm_head.weight", (facts.vocab, facts.hidden)
    everywhere = family.qkv_bias is None and config.flag("attention_bias", False)
    biased = {
        "qkv": family.qkv_bias or everywhere,
        "o": everywhere,
        "mlp": family.mlp_bias and config.flag("mlp_bias", False),
    }
    if family.experts:
        _require_few(config, facts, family.experts)
    for index in range(facts.layers):
        prefix = f"model.layers.{index}."
        for norm in family.norms:
            yield f"{prefix}{norm}.weight", (facts.hidden,)
        yield from _attention(f"{prefix}self_attn.", facts, family, biased)
        if family.experts and is_sparse(config, index):
            yield from _mixture(f"{prefix}{family.experts.part}.", config, facts, family.experts)
        else:
            yield from _feed_forward(f"{prefix}mlp.", facts, family, biased["mlp"])


def _require_few(config: Fields, facts: LlmFacts, experts: Experts) -> None:
    """A config must not make us list more weights than any checkpoint could hold."""
    count = config.integer(experts.count, high=1 << 16)
    if count * facts.layers > MOST_EXPERTS:
        fact = f"{count:,} experts in {facts.layers:,} layers are more than the {MOST_EXPERTS:,} allowed"
        raise SourceUnreadable(fact, where=config.where(experts.count))


def is_sparse(config: Fields, layer: int) -> bool:
    """Whether the layer of a model with experts has them: Qwen's may leave some layers dense."""
    dense = config.values.get("mlp_only_layers") or []
    step = config.integer("decoder_sparse_step", 1, high=10_000)
    return (layer + 1) % step == 0 and not (isinstance(dense, list) and layer in dense)


def _attention(prefix: str, facts: LlmFacts, family: Family, biased: Mapping[str, bool]) -> Iterator[Weight]:
    hidden, queries, keys = facts.hidden, facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    if family.fused:
        yield f"{prefix}qkv_proj.weight", (queries + 2 * keys, hidden)
    else:
        for part, width in (("q", queries), ("k", keys), ("v", keys)):
            yield from _linear(f"{prefix}{part}_proj", (width, hidden), biased["qkv"])
    yield from _linear(f"{prefix}o_proj", (hidden, queries), biased["o"])
    if family.qk_norm:
        whole = family.qk_norm == "all"
        yield f"{prefix}q_norm.weight", (queries if whole else facts.head_dim,)
        yield f"{prefix}k_norm.weight", (keys if whole else facts.head_dim,)


def _feed_forward(prefix: str, facts: LlmFacts, family: Family, bias: bool) -> Iterator[Weight]:
    hidden, inner = facts.hidden, facts.intermediate
    if family.fused:
        yield f"{prefix}gate_up_proj.weight", (2 * inner, hidden)
    else:
        yield from _linear(f"{prefix}gate_proj", (inner, hidden), bias)
        yield from _linear(f"{prefix}up_proj", (inner, hidden), bias)
    yield from _linear(f"{prefix}down_proj", (hidden, inner), bias)


def _mixture(prefix: str, config: Fields, facts: LlmFacts, experts: Experts) -> Iterator[Weight]:
    count = config.integer(experts.count, high=1 << 16)
    inner = config.integer(experts.intermediate, high=1 << 24)
    gate, up, down = experts.names
    yield f"{prefix}gate.weight", (count, facts.hidden)
    for index in range(count):
        yield f"{prefix}experts.{index}.{gate}.weight", (inner, facts.hidden)
        yield f"{prefix}experts.{index}.{up}.weight", (inner, facts.hidden)
        yield f"{prefix}experts.{index}.{down}.weight", (facts.hidden, inner)


def _linear(name: str, shape: tuple[int, ...], bias: bool) -> Iterator[Weight]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _gpt2(facts: LlmFacts) -> Iterator[Weight]:
    """GPT-2 keeps its matrices transposed: (in, out)."""
    hidden, inner = facts.hidden, facts.intermediate
    yield "transformer.wte.weight", (facts.vocab, hidden)
    yield "transformer.wpe.weight", (facts.context, hidden)
    yield from _with_bias("transformer.ln_f", (hidden,))
    for index in range(facts.layers):
        prefix = f"transformer.h.{index}."
        yield from _with_bias(f"{prefix}ln_1", (hidden,))
        yield from _with_bias(f"{prefix}ln_2", (hidden,))
        yield from _with_bias(f"{prefix}attn.c_attn", (hidden, 3 * hidden))
        yield from _with_bias(f"{prefix}attn.c_proj", (hidden, hidden))
        yield from _with_bias(f"{prefix}mlp.c_fc", (hidden, inner))
        yield from _with_bias(f"{prefix}mlp.c_proj", (inner, hidden))


def _with_bias(name: str, shape: tuple[int, ...]) -> Iterator[Weight]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[-1:]
