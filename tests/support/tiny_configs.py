"""The config.json of each tiny language model, with the keys that the family's own checkpoints have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BPE = ("llama3", "smollm", "smollm3", "qwen2", "qwen3", "gpt2")


@dataclass(frozen=True)
class Sizes:
    """What the weights' shapes follow from."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed: int
    layers: int
    vocabulary: int
    context: int


@dataclass(frozen=True)
class Family:
    """What makes one architecture: its tokenizer's style, whether head and embedding are tied, its own sizes."""

    tokenizer: str
    tied: bool = False
    may_be: tuple[bool, ...] = (False, True)  # tied, as checkpoints of the family are
    hidden: int = 256
    layers: int = 2
    full_heads: bool = False  # as many key-value heads as heads
    padded: bool = False  # more rows in the embedding than tokens
    context: int = 4096
    feed: int = 512


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", may_be=(False,), full_heads=True),
    "llama3": Family("llama3", context=131072),
    "mistral": Family("mistral", may_be=(False,), context=32768),
    "smollm": Family("smollm", tied=True, may_be=(True,), hidden=576, context=8192, feed=768),
    "smollm3": Family("llama3", tied=True, may_be=(True,), layers=4, context=65536),
    "qwen2": Family("qwen2", tied=True, padded=True, context=32768),
    "qwen3": Family("qwen3", tied=True, padded=True, context=40960),
    "gemma2": Family("gemma", tied=True, may_be=(True,), context=8192),
    # One layer in six attends to everything, so that seven layers hold both kinds.
    "gemma3": Family("gemma", tied=True, may_be=(True,), layers=7, context=32768),
    "phi3": Family("phi3", full_heads=True, padded=True),
    "phi3-longrope": Family("phi3", padded=True, context=131072),
    "gpt2": Family("gpt2", tied=True, may_be=(True,), full_heads=True, context=128),
}

# Covered too, but not among those that every test goes through.
FURTHER: dict[str, Family] = {
    "gemma": Family("gemma", tied=True, may_be=(True,), context=8192),
    "olmo2": Family("qwen2", may_be=(False,), padded=True, full_heads=True),
    "mixtral": Family("mistral", may_be=(False,), context=32768),
    "qwen3moe": Family("qwen3", may_be=(False,), padded=True, context=40960),
}
EXPERTS = 4


def sizes_of(architecture: str, vocabulary: int, *, hidden: int | None = None, **given: int | None) -> Sizes:
    """The sizes of one architecture; `given` may name layers, heads, kv_heads, head_dim, feed, context."""
    family = (FAMILIES | FURTHER)[architecture]
    width = hidden or family.hidden
    heads = given.get("heads") or max(1, width // 64)
    kv = given.get("kv_heads") or (heads if family.full_heads else _grouped(heads))
    free = architecture in (
        "qwen3",
        "qwen3moe",
        "gemma",
        "gemma2",
        "gemma3",
    )  # heads x head_dim need not be the hidden size
    head_dim = given.get("head_dim") or (64 if free else width // heads)
    feed = 4 * width if architecture == "gpt2" else given.get("feed") or family.feed
    layers, context = given.get("layers") or family.layers, given.get("context") or family.context
    return Sizes(width, heads, kv, head_dim, feed, layers, vocabulary, context)


def _grouped(heads: int) -> int:
    return next(heads // group for group in (2, 3, 1) if heads % group == 0)


def config_of(
    architecture: str, sizes: Sizes, *, tied: bool, dtype: str, ids: Mapping[str, int]
) -> dict[str, Any]:
    """config.json in the form that the family's own checkpoints have (transformers 4); `ids`: bos, eos, pad."""
    if architecture == "gpt2":
        return _gpt2(sizes, dtype, ids)
    common: dict[str, Any] = {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "initializer_range": 0.02,
        "intermediate_size": sizes.feed,
        "max_position_embeddings": sizes.context,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "transformers_version": "4.51.0",
        "use_cache": True,
        "vocab_size": sizes.vocabulary,
    }
    # Llama's own configs name no padding token.
    named = ("bos", "eos") if architecture in ("llama", "llama3", "mistral") else ("bos", "eos", "pad")
    common |= {f"{what}_token_id": ids[what] for what in named}
    return dict(sorted((common | _own(architecture, sizes)).items()))


def _own(architecture: str, sizes: Sizes) -> dict[str, Any]:
    """The keys in which one family differs."""
    llama = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "pretraining_tp": 1,
        "rope_scaling": None,
    }
    gemma = {
        "head_dim": sizes.head_dim, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": sizes.head_dim,
        "rms_norm_eps": 1e-06, "cache_implementation": "hybrid",
    }  # fmt: skip
    llama3 = {
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    }  # fmt: skip
    qwen = {
        "max_window_layers": sizes.layers,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-06,
        "use_sliding_window": False,
    }
    phi3 = {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": False, "embd_pdrop": 0.0,
        "resid_pdrop": 0.0, "original_max_position_embeddings": 4096, "rope_scaling": None,
    }  # fmt: skip
    half = sizes.head_dim // 2
    longrope = {
        "type": "longrope",
        "long_factor": [round(1.05 + 0.75 * n, 4) for n in range(half)],
        "short_factor": [round(1.0 + 0.02 * n, 4) for n in range(half)],
    }
    owns: dict[str, dict[str, Any]] = {
        "llama": llama | {"attention_bias": False},
        "llama3": llama | {
            "rope_scaling": llama3, "rope_theta": 500000.0, "head_dim": sizes.head_dim, "mlp_bias": False,
        },
        "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096},
        "smollm": llama | {"rope_theta": 100000, "is_llama_config": True, "rope_interleaved": False},
        "smollm3": {
            "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "rope_theta": 5000000.0,
            "no_rope_layer_interval": 4, "no_rope_layers": [int((n + 1) % 4 != 0) for n in range(sizes.layers)],
            "layer_types": ["full_attention"] * sizes.layers, "use_sliding_window": False, "sliding_window": None,
        },
        "qwen2": qwen | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "sliding_window": 32768},
        "qwen3": qwen | {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False,
            "head_dim": sizes.head_dim, "rope_scaling": None, "sliding_window": None,
        },
        "gemma2": gemma | {
            "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "sliding_window": 4096,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window_size": 4096,
        },
        "gemma3": gemma | {
            "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "sliding_window": 512,
            "sliding_window_pattern": 6, "rope_theta": 1000000, "rope_local_base_freq": 10000, "rope_scaling": None,
            "attn_logit_softcapping": None, "final_logit_softcapping": None,
        },
        "gemma": gemma | {
            "architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_act": "gelu_pytorch_tanh",
            "rope_scaling": None, "attention_bias": False,
        },
        "olmo2": {
            "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "rope_theta": 500000, "rms_norm_eps": 1e-06,
            "rope_scaling": None, "attention_bias": False,
        },
        "mixtral": {
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2, "rope_theta": 1000000.0, "sliding_window": None, "router_aux_loss_coef": 0.02,
        },
        "qwen3moe": qwen | {
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False,
            "head_dim": sizes.head_dim, "rope_scaling": None, "sliding_window": None, "num_experts": EXPERTS,
            "num_experts_per_tok": 2, "moe_intermediate_size": sizes.feed // 2, "decoder_sparse_step": 1,
            "mlp_only_layers": [], "norm_topk_prob": True,
        },
        "phi3": phi3 | {"sliding_window": 2047},
        "phi3-longrope": phi3 | {"rope_scaling": longrope, "sliding_window": 262144},
    }  # fmt: skip
    return owns[architecture]


def _gpt2(sizes: Sizes, dtype: str, ids: Mapping[str, int]) -> dict[str, Any]:
    """GPT-2's names; llama.cpp's converter reads n_ctx, which transformers 5 no longer writes."""
    return {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": ids["bos"], "embd_pdrop": 0.1, "eos_token_id": ids["eos"], "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": sizes.context, "n_embd": sizes.hidden,
        "n_head": sizes.heads, "n_layer": sizes.layers, "n_positions": sizes.context, "resid_pdrop": 0.1,
        "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
        "summary_type": "cls_index", "summary_use_proj": True, "torch_dtype": dtype, "vocab_size": sizes.vocabulary,
    }  # fmt: skip
