"""What must be known about a model to judge it: the values that inspection gives and feasibility takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

OP_CLASSES = (
    "conv",  # dense convolution
    "depthwise",  # depthwise convolution: one filter per channel
    "gemm",  # fully connected layer or matrix product with a constant weight
    "matmul",  # product of two activations (attention scores, attention output)
    "embedding",  # table look-up: reads rows, computes nothing
    "norm",  # layer, batch, group or RMS normalisation
    "softmax",
    "elementwise",  # add, mul, activation functions
    "pool",
    "recurrent",  # LSTM, GRU
    "movement",  # reshape, transpose, concat, slice, cast, quantize, dequantize
    "unknown",
)
"""Kernel classes; every `OpFact.op_class` is one of these."""

DTYPE_BITS: Mapping[str, float] = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "float8_e4m3": 8, "float8_e5m2": 8,
    "int64": 64, "int32": 32, "int16": 16, "int8": 8, "int4": 4, "int2": 2,
    "uint64": 64, "uint32": 32, "uint16": 16, "uint8": 8, "uint4": 4, "bool": 8,
    "complex64": 64, "complex128": 128, "string": 0,
}  # fmt: skip
"""Bits per element by dtype name. All of modelport uses these names (numpy's, where numpy has one)."""

BLOCK_BITS: Mapping[str, float] = {
    "q4_0": 4.5, "q4_1": 5, "q5_0": 5.5, "q5_1": 6, "q8_0": 8.5, "q8_1": 9,
    "q2_k": 2.625, "q3_k": 3.4375, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625, "q8_k": 9.125,
    "iq1_s": 1.5625, "iq1_m": 1.75, "iq2_xxs": 2.0625, "iq2_xs": 2.3125, "iq2_s": 2.5625,
    "iq3_xxs": 3.0625, "iq3_s": 3.4375, "iq4_xs": 4.25, "iq4_nl": 4.5,
    "tq1_0": 1.6875, "tq2_0": 2.0625, "mxfp4": 4.25, "nvfp4": 4.5, "q1_0": 1.125, "q2_0": 2.25,
}  # fmt: skip
"""Bits per weight, scales included, of the blocks that ggml stores quantized weights in (ggml-common.h)."""

Dim = int | str | None
"""One dimension: a number, a symbol's name ("batch"), or None when it is free and unnamed."""


@dataclass(frozen=True)
class IoFact:
    """One input or output of the model, by the source's own name."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None
    """None when even the rank is unknown."""


@dataclass(frozen=True)
class TensorFact:
    """One stored weight: name, dtype, shape and the bytes that it takes in the source."""

    name: str
    dtype: str
    """A key of `DTYPE_BITS` or `BLOCK_BITS`."""
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class OpFact:
    """One operator of the graph, at batch 1 and with free dimensions at the size that was assumed."""

    name: str
    kind: str
    """The source's own operator name, as in "Conv", "aten.conv2d.default", "Dense"."""
    op_class: str
    flops: int | None
    """Floating-point operations, 2 for a multiply-add; None when unknown."""
    weights: int = 0
    """Number of weight elements that the operator reads."""
    activations: int = 0
    """Number of activation elements that it reads and writes."""


@dataclass(frozen=True)
class PeakFact:
    """The moment of a graph at which most activations are alive, with norms and activation functions fused.

    Runtimes fold what works element by element into the operator before it, so that it takes no memory of its own.
    """

    elements: int
    """Alive at once at batch 1."""
    operator: str
    """Name of the operator that runs then."""
    kind: str
    tensor: str
    """Name of the largest of what is alive."""
    tensor_elements: int
    floor: int
    """The most that any single operator reads and writes: no order of operators needs less."""


@dataclass(frozen=True)
class LlmFacts:
    """The geometry of a decoder-only language model, from config.json."""

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    """Longest sequence that the model was made for, in tokens."""
    tied_embeddings: bool = False
    experts: int = 0
    """Experts of a layer that has any; 0 for a dense model, and where it is not known."""
    experts_per_token: int = 0
    """How many of them the router sends a token to; 0 where it is not known."""


@dataclass(frozen=True)
class ModelFacts:
    """Everything known about a model without loading a framework or reading a weight."""

    kind: str
    """The source's kind, as in "torch-exported", "huggingface", "onnx", "saved-model", "keras"."""
    name: str
    architecture: str
    """A class or producer name for people: "BertModel", "pytorch 2.13.0", "Sequential"."""
    tensors: tuple[TensorFact, ...]
    inputs: tuple[IoFact, ...]
    outputs: tuple[IoFact, ...]
    ops: tuple[OpFact, ...] = ()
    """Empty when the source carries no graph that can be read without its framework."""
    peak_activations: int | None = None
    """Largest number of activation elements alive at once at batch 1; None when unknown."""
    peak: PeakFact | None = None
    """Where the peak is as a fusing runtime has it; None when unknown."""
    llm: LlmFacts | None = None
    assumed: Mapping[str, int] = field(default_factory=dict)
    """Sizes that were assumed for free dimensions, as in {"batch": 1, "sequence": 128}."""
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of weight elements."""
        total = 0
        for tensor in self.tensors:
            elements = 1
            for size in tensor.shape:
                elements *= size
            total += elements
        return total

    @cached_property
    def alike(self) -> tuple[tuple[TensorFact, int], ...]:
        """One tensor of each kind and how many there are: alike are those whose names differ in numbers only.

        A mixture of experts has tens of thousands of tensors, of a dozen kinds.
        """
        kinds: Counter[tuple[str, str, tuple[int, ...], int]] = Counter()
        first: dict[tuple[str, str, tuple[int, ...], int], TensorFact] = {}
        for tensor in self.tensors:
            kind = (re.sub(r"\d+", "#", tensor.name), tensor.dtype, tensor.shape, tensor.nbytes)
            kinds[kind] += 1
            first.setdefault(kind, tensor)
        return tuple((first[kind], count) for kind, count in kinds.items())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as the source stores them."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bytes_by_dtype(self) -> dict[str, int]:
        """Weight bytes per dtype, largest first."""
        totals: dict[str, int] = {}
        for tensor in self.tensors:
            totals[tensor.dtype] = totals.get(tensor.dtype, 0) + tensor.nbytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    @property
    def flops(self) -> int | None:
        """Operations of one inference at batch 1; None when the graph or any compute operator is unknown."""
        if not self.ops or any(op.flops is None for op in self.ops):
            return None
        return sum(op.flops or 0 for op in self.ops)
