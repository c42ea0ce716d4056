"""Memory and file formulas, one function a formula: weights, KV cache, activations and their sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .card import Overhead, QuantScheme
from .facts import BLOCK_BITS, DTYPE_BITS, LlmFacts, ModelFacts, TensorFact

EMBEDDING_NAMES = ("embed", "wte.", "wpe.", "lm_head", "_embd.")
"""Parts of names that mark look-up tables and language-model heads, in checkpoints and in GGUF files."""
EXPERT_NAMES = (".experts.", "_exps.")


@dataclass(frozen=True)
class WeightCounts:
    """Elements of a model's weights, float or in quantized blocks, sorted by how schemes treat them."""

    matrices: int = 0
    embeddings: int = 0
    """Look-up tables and language-model heads."""
    convs: int = 0
    vectors: int = 0
    """Biases, norms: whatever has rank 0 or 1."""
    fixed_bytes: int = 0
    """Bytes of integer tensors, which no scheme changes."""
    experts: int = 0
    """What of the matrices belongs to experts: one token reads a part of it only."""

    @property
    def elements(self) -> int:
        """Number of weights that schemes treat."""
        return self.matrices + self.embeddings + self.convs + self.vectors


def count_weights(facts: ModelFacts, held: Callable[[TensorFact], float] | None = None) -> WeightCounts:
    """Sort the weights of a model; by dtype, rank, and for tables by name or the vocabulary's size.

    `held` tells how many elements of a tensor count, where one device holds a part; None: all.
    """
    counts = {"matrices": 0.0, "embeddings": 0.0, "convs": 0.0, "vectors": 0.0, "fixed": 0.0}
    experts = 0.0
    for tensor, times in facts.alike:
        group = _group(tensor, facts.llm)
        elements = times * (held(tensor) if held else _elements(tensor))
        counts[group] += (
            tensor.nbytes * elements / max(1, _elements(tensor)) if group == "fixed" else elements
        )
        if group == "matrices" and any(part in tensor.name for part in EXPERT_NAMES):
            experts += elements
    whole = {group: math.ceil(count) for group, count in counts.items()}
    return WeightCounts(
        whole["matrices"],
        whole["embeddings"],
        whole["convs"],
        whole["vectors"],
        whole["fixed"],
        math.ceil(experts),
    )


def _elements(tensor: TensorFact) -> int:
    total = 1
    for size in tensor.shape:
        total *= size
    return total


def _group(tensor: TensorFact, llm: LlmFacts | None) -> str:
    if "float" not in tensor.dtype and tensor.dtype not in BLOCK_BITS:
        return "fixed"
    rank = len(tensor.shape)
    if rank < 2:
        return "vectors"
    if rank > 2 and llm is None:
        return "convs"
    named = rank == 2 and any(part in tensor.name for part in EMBEDDING_NAMES)
    sized = llm is not None and rank == 2 and llm.vocab in tensor.shape
    return "embeddings" if named or sized else "matrices"


def channels(facts: ModelFacts) -> int:
    """Output channels of all convolutions: axis 0 of a weight in torch and ONNX, the last ones in TensorFlow."""
    last = facts.kind in ("keras", "saved-model")
    total = 0
    for tensor in facts.tensors:
        if len(tensor.shape) == 4:
            # A depthwise weight is (height, width, channels, 1) there.
            total += (
                max(tensor.shape[3], 1) if last and tensor.shape[3] > 1 else tensor.shape[2 if last else 0]
            )
    return total


def runtime_bytes(facts: ModelFacts, overhead: Overhead) -> float:
    """What the runtime takes for itself beside weights and activations."""
    return (
        overhead.memory_bytes
        + overhead.memory_bytes_per_op * len(facts.ops)
        + overhead.memory_bytes_per_channel * channels(facts)
    )


def dense_bytes(elements: float, bits: float) -> float:
    """Bytes of `elements` values at `bits` effective bits each: elements * bits / 8."""
    return elements * bits / 8


def stored_bytes(counts: WeightCounts, scheme: QuantScheme) -> float:
    """M_model in the file, in bytes: each group of weights at the scheme's effective bits."""
    return _weights_at(counts, scheme, scheme.weight_bits)


def resident_bytes(counts: WeightCounts, scheme: QuantScheme) -> float:
    """M_model in memory, in bytes: as stored, but expanded where the runtime does so (`resident_bits`)."""
    return _weights_at(counts, scheme, scheme.resident_bits or scheme.weight_bits)


def _weights_at(counts: WeightCounts, scheme: QuantScheme, bits: float) -> float:
    return (
        dense_bytes(counts.matrices, bits)
        + dense_bytes(counts.convs, scheme.conv_bits or bits)
        + dense_bytes(counts.embeddings, scheme.embedding_bits or scheme.weight_bits)
        + dense_bytes(counts.vectors, scheme.vector_bits)
        + counts.fixed_bytes
    )


def decode_counts(counts: WeightCounts, llm: LlmFacts, tokens: int = 1) -> WeightCounts:
    """The weights that `tokens` tokens read together: all but the input table, of which they read rows.

    A tied table is read whole all the same, as the head. Of experts, those count that a token is sent to.
    """
    head = min(counts.embeddings, llm.vocab * llm.hidden)
    idle = round(counts.experts * (1 - experts_read(llm.experts, llm.experts_per_token, tokens)))
    return WeightCounts(counts.matrices - idle, head, counts.convs, counts.vectors, 0, counts.experts - idle)


def experts_read(experts: int, per_token: int, tokens: int) -> float:
    """The share of a layer's experts that `tokens` tokens are sent to: 1 - (1 - k / E)^tokens.

    What is expected where the router chooses evenly and for each token anew; 1 where E or k is not known.
    """
    if not 0 < per_token < experts:
        return 1.0
    return float(1 - (1 - per_token / experts) ** tokens)


def kv_bytes(layers: int, kv_heads: int, head_dim: int, batch: int, tokens: int, bits: float) -> float:
    """M_KV = 2 * layers * kv_heads * head_dim * B * S * bytes: keys and values of every token, in bytes.

    DESIGN.md, *Feasibility*; llama.cpp reports exactly this.
    """
    return 2 * layers * kv_heads * head_dim * batch * tokens * bits / 8


def activation_bytes(peak_elements: float, batch: int, dtype: str) -> float:
    """M_activations of a graph in bytes: the most elements alive at once, each at its dtype's size."""
    return peak_elements * batch * DTYPE_BITS[dtype] / 8


def llm_activation_bytes(llm: LlmFacts, batch: int, positions: int, dtype: str, logits: int) -> float:
    """M_activations of a decoder in bytes, when `positions` of all sequences together go through at once.

    The residual stream twice, queries, keys and values, and the two halves of the gated feed-forward
    layer, with attention computed blockwise (no S x S matrix); `logits` of the last position of each
    sequence in 32 bits. An estimate: runtimes differ in what they keep.
    """
    width = 2 * llm.hidden + (llm.heads + 2 * llm.kv_heads) * llm.head_dim + 2 * llm.intermediate
    return positions * width * DTYPE_BITS[dtype] / 8 + batch * logits * 4


def inference_bytes(model: float, kv: float, activations: float) -> float:
    """M_infer = M_model + M_KV + M_activations, in bytes (DESIGN.md, *Feasibility*)."""
    return model + kv + activations


def conversion_bytes(counts: WeightCounts, overhead: Overhead) -> float:
    """Memory that converting takes on the machine that converts: frameworks, and copies of float32 weights.

    A planning estimate; the two coefficients stand in the target's card with the models they were measured on.
    """
    return overhead.convert_memory_bytes + overhead.convert_weight_copies * dense_bytes(counts.elements, 32)
