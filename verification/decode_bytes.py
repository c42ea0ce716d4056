"""How many bytes of a GGUF file one written token reads: what its speed is bounded by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..sources.gguf.header import TYPES, read_header, type_bytes
from ..targets.facts import BLOCK_BITS, DTYPE_BITS

if TYPE_CHECKING:
    from ..exporters.runtimes.gguf.session import Model

LOOKED_UP = ("token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
"""Tables of which one row is read for a token."""
KV_NAMES = {"f16": "float16", "f32": "float32", "bf16": "bfloat16"}


def of_token(path: Path, model: Model, tokens: int, kv: str) -> float:
    """Bytes read for one token with `tokens` in the context: the matrices, the experts that are chosen, keys
    and values. A token table that is the output matrix too (tied) is read whole.
    """
    header = read_header(path)
    tied = not any(info.name == "output.weight" for info in header.tensors)
    experts, used = model.number("{arch}.expert_count"), model.number("{arch}.expert_used_count")
    total = 0.0
    for info in header.tensors:
        stored = type_bytes(info.type, info.shape)
        if info.name in LOOKED_UP and not (tied and info.name == "token_embd.weight"):
            _, elements, block = TYPES[info.type]
            total += info.shape[-1] // elements * block
        elif "_exps." in info.name and experts and used:
            total += stored * used / experts
        else:
            total += stored
    return total + kv_bytes(model, tokens, kv)


def kv_bytes(model: Model, tokens: int, kv: str) -> float:
    """Bytes of the keys and values of `tokens` tokens: 2 · layers · KV heads · head size · tokens · bytes."""
    bits = BLOCK_BITS.get(kv) or DTYPE_BITS[KV_NAMES[kv]]
    llama = model.llama
    layers, heads = llama.llama_model_n_layer(model.handle), llama.llama_model_n_head_kv(model.handle)
    size = model.number("{arch}.attention.key_length")
    size = size or llama.llama_model_n_embd(model.handle) // max(1, llama.llama_model_n_head(model.handle))
    return float(2 * layers * heads * size * tokens * bits / 8)
