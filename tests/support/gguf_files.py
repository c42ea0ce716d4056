"""Small GGUF files for tests: a Llama's keys and tensors in any types, with sparse data behind the header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelport.sources.gguf import values
from modelport.sources.gguf.header import Entry, Info, encode, entry
from modelport.sources.gguf.types import TYPES, type_bytes

IDS = {name: kind for kind, (name, _, _) in TYPES.items()}
KINDS = {str: values.STRING, bool: values.BOOL, int: values.UINT32, float: values.FLOAT32}

LLAMA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 2048,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"t{index}" for index in range(48)],
}

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def matrices(
    layers: int = 2, hidden: int = 256, kv: int = 128, inner: int = 512, vocab: int = 48
) -> dict[str, tuple[int, ...]]:
    """Names and numpy-order shapes of a Llama's tensors, the norms left out."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab, hidden),
        "output.weight": (vocab, hidden),
    }
    for index in range(layers):
        shapes |= {
            f"blk.{index}.attn_q.weight": (hidden, hidden),
            f"blk.{index}.attn_k.weight": (kv, hidden),
            f"blk.{index}.attn_v.weight": (kv, hidden),
            f"blk.{index}.attn_output.weight": (hidden, hidden),
            f"blk.{index}.ffn_gate.weight": (inner, hidden),
            f"blk.{index}.ffn_up.weight": (inner, hidden),
            f"blk.{index}.ffn_down.weight": (hidden, inner),
        }
    return shapes


def tensors(kind: str = "float16", layers: int = 2, **others: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """A Llama's tensors, matrices of type `kind` (or by role in `others`), norms in float32."""
    found = {name: (others.get(name.split(".")[-2], kind), shape) for name, shape in matrices(layers).items()}
    norms = ["output_norm", *(f"blk.{i}.{part}_norm" for i in range(layers) for part in ("attn", "ffn"))]
    return {**found, **{f"{norm}.weight": ("float32", (256,)) for norm in norms}}


def entries(keys: Mapping[str, Any]) -> list[Entry]:
    """Entries of the GGUF type that fits each Python value; a pair (type id, value) says its own."""
    made = []
    for key, given in keys.items():
        kind, value = given if isinstance(given, tuple) else (None, given)
        sample = value[0] if isinstance(value, list) else value
        made.append(entry(key, KINDS[type(sample)] if kind is None else kind, value))
    return made


def infos(named: Tensors, alignment: int = 32) -> list[Info]:
    """The tensors one behind the other, as llama.cpp lays them out."""
    made, offset = [], 0
    for name, (kind, shape) in named.items():
        made.append(Info(name, IDS[kind], shape, offset))
        offset += -(-type_bytes(IDS[kind], shape) // alignment) * alignment
    return made


def write(path: Path, keys: Mapping[str, Any] = LLAMA, named: Tensors | None = None) -> Path:
    """Write a file whose data is zeros that take no space on disk."""
    laid = infos(tensors() if named is None else named)
    front = encode(entries(keys), laid)
    last = laid[-1].offset + type_bytes(laid[-1].type, laid[-1].shape) if laid else 0
    with path.open("wb") as stream:
        stream.write(front)
        stream.truncate(len(front) + -(-last // 32) * 32)
    return path
