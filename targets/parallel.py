"""Tensor parallelism: what of a language model each of several GPUs holds, and what they have to exchange."""

from __future__ import annotations

import math
from dataclasses import replace

from . import memory
from .card import QuantScheme
from .errors import UsageError
from .facts import LlmFacts, ModelFacts, TensorFact

MOST_GPUS = 8
"""GPUs that one server with fast links between them has, as a rule."""
HOP_US = 1.0
"""Microseconds of one step of a ring between neighbours. An estimate: two H100 sum a small message in 6 us
(github.com/NVIDIA/nccl/issues/1259), two steps of which and a launch of 4 us make."""
VOCABULARY_PADDING = 64
"""vLLM pads the vocabulary to a multiple of this before it is split."""

FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "in_proj_qkv")
"""Parts of names of matrices that hold queries, keys and values."""
KEYS = (".k_proj.", ".v_proj.")
WHOLE = (
    ".mlp.gate.weight",
    ".block_sparse_moe.gate.weight",
    ".router.",
    ".q_a_proj.",
    ".kv_a_proj_with_mqa.",
)
"""Parts of names of matrices that every GPU holds whole: routers of experts, and what latent attention
compresses with."""


def refusal(llm: LlmFacts, gpus: int) -> str:
    """Why the model's geometry cannot be split over `gpus`; "" when it can. vLLM refuses the same."""
    if llm.heads % gpus:
        return f"{llm.heads} attention heads cannot be split evenly over {gpus} GPUs"
    few, many = sorted((llm.kv_heads, gpus))
    if many % few:
        return f"{llm.kv_heads} KV heads can neither be split evenly over {gpus} GPUs nor repeated evenly"
    if llm.intermediate % gpus:
        return f"a feed-forward width of {llm.intermediate} cannot be split evenly over {gpus} GPUs"
    return ""


def sizes(llm: LlmFacts, most: int = 128) -> tuple[int, ...]:
    """The numbers of GPUs up to `most` that the model's geometry can be split over, 1 included."""
    return tuple(gpus for gpus in range(1, min(llm.heads, most) + 1) if not refusal(llm, gpus))


def require(llm: LlmFacts, gpus: int) -> None:
    """Raise UsageError, naming the numbers of GPUs that work, unless the model can be split over `gpus`."""
    why = refusal(llm, gpus)
    if why:
        raise UsageError(
            why,
            where="--tensor-parallel",
            mend=f"It can be split over {', '.join(str(known) for known in sizes(llm))}",
        )


def cut_group(llm: LlmFacts, scheme: QuantScheme, gpus: int) -> str:
    """Why a split would cut through weights that share a scale; "" when it does not.

    Matrices that are split along their input (attention's output, the feed-forward's second) give each GPU
    a part of every row, which must hold whole groups (vLLM's compressed-tensors loader asserts it).
    """
    group = scheme.group
    if not group or gpus == 1:
        return ""
    for what, width in (
        ("attention's output", llm.heads * llm.head_dim),
        ("the feed-forward layer", llm.intermediate),
    ):
        if (width // gpus) % group and width % group == 0:
            return (
                f"{scheme.name} has one scale for {group} weights in a row, and {what} of {width} split"
                f" over {gpus} GPUs leaves {width // gpus} in each row"
            )
    return ""


def geometry(llm: LlmFacts, gpus: int) -> LlmFacts:
    """The part of the geometry that each GPU computes; KV heads are repeated where there are fewer than GPUs."""
    if gpus == 1:
        return llm
    return replace(
        llm,
        heads=llm.heads // gpus,
        kv_heads=max(1, llm.kv_heads // gpus),
        intermediate=llm.intermediate // gpus,
        vocab=vocabulary_rows(llm, gpus),
    )


def vocabulary_rows(llm: LlmFacts, gpus: int) -> int:
    """Rows of the look-up table and of the head that each GPU holds, padding included."""
    if gpus == 1:
        return llm.vocab
    padded = math.ceil(llm.vocab / VOCABULARY_PADDING) * VOCABULARY_PADDING
    return math.ceil(padded / gpus)


def held_weights(facts: ModelFacts, gpus: int) -> memory.WeightCounts:
    """The weights that each GPU holds, sorted as `memory.count_weights` does.

    Split as Megatron-LM does: q, k, v, gate and up by their outputs, attention's output and down by their
    inputs, table and head by the vocabulary. Norms, biases, positions and routers are held whole.
    """
    if gpus == 1 or facts.llm is None:
        return memory.count_weights(facts)
    llm = facts.llm
    return memory.count_weights(facts, lambda tensor: _held(tensor, llm, gpus))


def _held(tensor: TensorFact, llm: LlmFacts, gpus: int) -> float:
    """Elements of one tensor that each GPU holds."""
    elements = math.prod(tensor.shape)
    name, rank = f".{tensor.name}", len(tensor.shape)
    if rank < 2 or any(part in name for part in WHOLE):
        return elements
    if llm.vocab in tensor.shape and rank == 2:
        return elements // llm.vocab * vocabulary_rows(llm, gpus)
    if any(part in name for part in memory.EMBEDDING_NAMES):
        return elements
    if any(part in name for part in KEYS):
        return elements / llm.kv_heads * max(1, llm.kv_heads // gpus)
    if any(part in name for part in FUSED):
        share = geometry(llm, gpus)
        return elements * (share.heads + 2 * share.kv_heads) / (llm.heads + 2 * llm.kv_heads)
    return elements / gpus


def all_reduces(llm: LlmFacts) -> int:
    """Sums over all GPUs in one pass: after attention and feed-forward of each layer, and after the table."""
    return 2 * llm.layers + 1


def ring_us(gpus: int, launch_us: float) -> float:
    """Microseconds of an all-reduce of nothing by ring: a launch, and 2 (n - 1) steps."""
    return launch_us + 2 * (gpus - 1) * HOP_US


def ring_bytes(nbytes: float, gpus: int) -> float:
    """Bytes that each GPU sends in an all-reduce of `nbytes` by ring: 2 (n - 1) / n of them."""
    return 2 * (gpus - 1) / gpus * nbytes
