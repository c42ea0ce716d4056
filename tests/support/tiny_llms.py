"""Hugging Face directories of tiny language models: config, tokenizer and random, well-scaled safetensors.

Made without torch or transformers; names, shapes and keys are those of the families' own checkpoints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tiny_configs import EXPERTS, FAMILIES, FURTHER, Sizes, config_of, sizes_of
from tiny_sentencepiece import write_sentencepiece
from tiny_tokenizers import STYLES, write_bpe, write_json

ARCHITECTURES = tuple(FAMILIES)
STORED = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
CARD = """---
license: apache-2.0
language:
- en
- de
tags:
- tiny
- test
pipeline_tag: text-generation
---
# A tiny model with random weights
"""


def make(
    architecture: str,
    folder: Path,
    *,
    dtype: str = "bfloat16",
    tied: bool | None = None,
    shards: int = 1,
    seed: int = 0,
    tokens: int = 768,
    tokenizer: str | None = None,
    card: bool = False,
    masks: bool = False,
    config: dict[str, Any] | None = None,
    **sizes: int | None,
) -> Path:
    """Write one model into a folder, and give the folder back.

    `sizes` may name hidden, layers, heads, kv_heads, head_dim, feed, context; hidden is 256 where not named (576 for
    smollm), so that K-quants apply; 288 makes them fall back to blocks of 32, 80 to 16-bit weights. `config` overrides
    keys of config.json. `tokenizer` names another style (of tiny_tokenizers or tiny_sentencepiece), such as unigram.
    `masks` adds the causal masks that GPT-2's own file holds; the converter of llama-cpp-python 0.3.36 cannot map them
    (`Can not map tensor 'h.0.attn.bias'`), so that the oracle for such a folder is the one without them.
    """
    family = (FAMILIES | FURTHER)[architecture]
    tied = family.tied if tied is None else tied
    style = tokenizer or family.tokenizer
    count = (
        write_bpe(style, folder, tokens) if style in STYLES else write_sentencepiece(style, folder, tokens)
    )
    rows = (count // 64 + 1) * 64 if family.padded else count
    measures = sizes_of(architecture, rows, **sizes)
    written = config_of(architecture, measures, tied=tied, dtype=dtype, ids=_special_ids(folder))
    write_json(folder / "config.json", written | (config or {}))
    write_json(folder / "generation_config.json", _generation(written))
    if card:
        (folder / "README.md").write_text(CARD, encoding="utf-8")
    shapes = dict(_shapes(architecture, measures, tied))
    if masks:
        square = (1, 1, measures.context, measures.context)
        shapes |= {f"h.{layer}.attn.bias": square for layer in range(measures.layers)}
    write_shards(folder, shapes, dtype, shards=shards, seed=seed, gemma=architecture.startswith("gemma"))
    return folder


def pre_of(architecture: str) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a BPE model that `make` writes, None for SentencePiece."""
    style = STYLES.get((FAMILIES | FURTHER)[architecture].tokenizer)
    return style.pre if style else None


def _special_ids(folder: Path) -> dict[str, int]:
    """The ids of bos, eos and pad for config.json, where each family names all: Qwen's bos is its <|endoftext|>."""
    named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = {token["content"]: int(number) for number, token in named["added_tokens_decoder"].items()}
    eos = ids[named["eos_token"]]
    pad = ids.get(named.get("pad_token"), eos)
    return {"bos": ids.get(named.get("bos_token"), pad), "eos": eos, "pad": pad}


def _generation(config: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in config.items() if k.endswith("_token_id")}
    return kept | {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.51.0"}


def _shapes(architecture: str, s: Sizes, tied: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor's name and shape in the checkpoint."""
    if architecture == "gpt2":
        yield from _gpt2_shapes(s)
        return
    yield "model.embed_tokens.weight", (s.vocabulary, s.hidden)
    for layer in range(s.layers):
        for name, shape in _layer_shapes(architecture, s):
            yield f"model.layers.{layer}.{name}", shape
    yield "model.norm.weight", (s.hidden,)
    if not tied:
        yield "lm_head.weight", (s.vocabulary, s.hidden)


def _layer_shapes(architecture: str, s: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    yield (
        "post_feedforward_layernorm.weight" if architecture == "olmo2" else "input_layernorm.weight",
        (s.hidden,),
    )
    yield "post_attention_layernorm.weight", (s.hidden,)
    if architecture.startswith("phi3"):
        yield "self_attn.qkv_proj.weight", (queries + 2 * keys, s.hidden)
    else:
        for name, width in (("q", queries), ("k", keys), ("v", keys)):
            yield f"self_attn.{name}_proj.weight", (width, s.hidden)
            if architecture == "qwen2":
                yield f"self_attn.{name}_proj.bias", (width,)
    yield "self_attn.o_proj.weight", (s.hidden, queries)
    yield from _feed_shapes(architecture, s)
    if architecture in ("qwen3", "qwen3moe", "gemma3", "olmo2"):  # OLMo's span all heads
        yield "self_attn.q_norm.weight", (queries if architecture == "olmo2" else s.head_dim,)
        yield "self_attn.k_norm.weight", (keys if architecture == "olmo2" else s.head_dim,)
    if architecture in ("gemma2", "gemma3"):
        yield "pre_feedforward_layernorm.weight", (s.hidden,)
        yield "post_feedforward_layernorm.weight", (s.hidden,)
    if architecture == "llama":  # a buffer that Llama 2's own checkpoints still hold, and nobody reads
        yield "self_attn.rotary_emb.inv_freq", (s.head_dim // 2,)


def _feed_shapes(architecture: str, s: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    if architecture.startswith("phi3"):
        yield "mlp.gate_up_proj.weight", (2 * s.feed, s.hidden)
        yield "mlp.down_proj.weight", (s.hidden, s.feed)
        return
    room, names, feed, count = "mlp", ("gate_proj", "up_proj", "down_proj"), s.feed, 0
    if architecture == "mixtral":
        room, names, count = "block_sparse_moe", ("w1", "w3", "w2"), EXPERTS
    elif architecture == "qwen3moe":
        feed, count = s.feed // 2, EXPERTS
    if count:
        yield f"{room}.gate.weight", (count, s.hidden)
    for one in [f"{room}.experts.{number}" for number in range(count)] or [room]:
        yield f"{one}.{names[0]}.weight", (feed, s.hidden)
        yield f"{one}.{names[1]}.weight", (feed, s.hidden)
        yield f"{one}.{names[2]}.weight", (s.hidden, feed)


def _gpt2_shapes(s: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """GPT-2's own file has no `transformer.` before its names."""
    yield "wte.weight", (s.vocabulary, s.hidden)
    yield "wpe.weight", (s.context, s.hidden)
    for layer in range(s.layers):
        linear = (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1))
        for name, into, out in linear:  # Conv1D: input first
            yield f"h.{layer}.{name}.weight", (into * s.hidden, out * s.hidden)
            yield f"h.{layer}.{name}.bias", (out * s.hidden,)
        for norm in ("ln_1", "ln_2"):
            yield f"h.{layer}.{norm}.weight", (s.hidden,)
            yield f"h.{layer}.{norm}.bias", (s.hidden,)
    yield "ln_f.weight", (s.hidden,)
    yield "ln_f.bias", (s.hidden,)


def values(name: str, shape: tuple[int, ...], rng: np.random.Generator, gemma: bool) -> np.ndarray[Any, Any]:
    """Random float32 weights that keep activations near one: rows of unequal scale, a few outliers, real norms."""
    if name.endswith("attn.bias") and len(shape) == 4:
        return np.tril(np.ones(shape, np.float32))
    if name.endswith("inv_freq"):
        return (1.0 / 10000.0 ** (np.arange(shape[0]) / shape[0])).astype(np.float32)
    drawn = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        is_norm = "norm" in name or "ln_" in name
        centre = 0.0 if gemma or not name.endswith("weight") or not is_norm else 1.0
        return (centre + 0.1 * drawn).astype(np.float32)
    conv = name.startswith(("h.", "transformer.h."))
    rows = np.exp(0.3 * rng.standard_normal((shape[0], 1), dtype=np.float32))
    drawn *= rows / math.sqrt(shape[0] if conv else shape[1])
    drawn.reshape(-1)[rng.integers(0, drawn.size, drawn.size // 2000)] *= 4.0
    return drawn


def stored(array: np.ndarray[Any, Any], dtype: str) -> bytes:
    """The bytes of a float32 array in a checkpoint's type; bfloat16 rounds to nearest, ties to even."""
    if dtype != "bfloat16":
        return array.astype({"float16": "<f2", "float32": "<f4"}[dtype]).tobytes()
    bits = array.astype("<f4").view("<u4")
    return bytes(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes())


def write_shards(
    folder: Path, shapes: dict[str, tuple[int, ...]], dtype: str, *, shards: int, seed: int, gemma: bool
) -> None:
    """Write the tensors into one file, or into several with their index, as transformers names them."""
    names = sorted(shapes)
    share = -(-len(names) // shards)
    groups = [names[n : n + share] for n in range(0, len(names), share)]
    rng, total = np.random.default_rng(seed), 0
    placed: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = (
            f"model-{number:05d}-of-{len(groups):05d}.safetensors" if len(groups) > 1 else "model.safetensors"
        )
        # Masks and frequencies stay float32 in the real files whatever the weights are.
        kinds = {n: "float32" if n.endswith(("inv_freq",)) or len(shapes[n]) == 4 else dtype for n in group}
        blobs = {n: stored(values(n, shapes[n], rng, gemma), kinds[n]) for n in group}
        write_safetensors(folder / file, {n: (kinds[n], shapes[n], blobs[n]) for n in group})
        placed |= dict.fromkeys(group, file)
        total += sum(map(len, blobs.values()))
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        write_json(folder / "model.safetensors.index.json", index)


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """A safetensors file of (dtype, shape, bytes), the widest types first, as the library lays them out."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    order = sorted(tensors, key=lambda name: (-STORED[tensors[name][0]][1], name))
    for name in order:
        dtype, shape, blob = tensors[name]
        header[name] = {"dtype": STORED[dtype][0], "shape": list(shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(tensors[name][2])
