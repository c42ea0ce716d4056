"""Writes a network down as a forward pass over shapes: weights that it needs, operators, activations alive.

Architectures of transformers are described this way (encoders, vision, decoders), so that one description
gives the expected weights of a checkpoint, its FLOPs and its peak activations, without a framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

from ...targets.facts import OpFact, PeakFact
from .. import flops, peaks
from ..flops import Step


@dataclass(frozen=True)
class Value:
    """A tensor between two operators, at batch 1."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass
class Tracer:
    """Collects what a forward pass does. Methods take and give `Value`s, named as in the checkpoint."""

    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Names and shapes of the weights that the network reads."""
    ops: list[OpFact] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """A model input."""
        self.inputs[name] = prod(shape)
        return Value(name, tuple(shape))

    def weight(self, name: str, *shape: int) -> int:
        """Note a weight; its number of elements."""
        self.weights[name] = shape
        return prod(shape)

    def op(
        self, name: str, kind: str, op_class: str, inputs: Sequence[Value], shape: Sequence[int], *,
        operations: int | None, weights: int = 0, alias: bool = False,
    ) -> Value:  # fmt: skip
        """Append an operator with one output of `shape`."""
        out = Value(f"{len(self.steps)}:{name}", tuple(shape))
        moved = 0 if alias else out.size + sum(value.size for value in inputs)
        self.ops.append(OpFact(name, kind, op_class, operations, weights, moved))
        names = [value.name for value in inputs]
        self.steps.append(Step(names, {out.name: out.size}, alias, name, kind, op_class))
        return out

    def embedding(self, name: str, rows: int, width: int, ids: Value) -> Value:
        """Rows of a table: (..., width). The rows that are read count as weights."""
        self.weight(f"{name}.weight", rows, width)
        shape = (*ids.shape, width)
        return self.op(name, "Embedding", "embedding", [ids], shape, operations=0, weights=prod(shape))

    def linear(self, name: str, x: Value, width: int, *, bias: bool = True) -> Value:
        """A fully connected layer over the last axis; weight (out, in)."""
        inner = x.shape[-1]
        count = self.weight(f"{name}.weight", width, inner)
        count += self.weight(f"{name}.bias", width) if bias else 0
        operations = flops.gemm(prod(x.shape[:-1]), inner, width)
        return self.op(
            name, "Linear", "gemm", [x], (*x.shape[:-1], width), operations=operations, weights=count
        )

    def norm(self, name: str, x: Value, *, bias: bool = True) -> Value:
        """Layer normalisation over the last axis (RMS normalisation without bias)."""
        width = x.shape[-1]
        count = self.weight(f"{name}.weight", width) + (self.weight(f"{name}.bias", width) if bias else 0)
        operations = flops.per_element("norm", x.shape)
        return self.op(name, "LayerNorm", "norm", [x], x.shape, operations=operations, weights=count)

    def batch_norm(self, name: str, x: Value) -> Value:
        """Batch normalisation over axis 0 of (C, H, W)."""
        parts = ("weight", "bias", "running_mean", "running_var")
        count = sum(self.weight(f"{name}.{part}", x.shape[0]) for part in parts)
        operations = flops.per_element("norm", x.shape)
        return self.op(name, "BatchNorm2d", "norm", [x], x.shape, operations=operations, weights=count)

    def conv(
        self, name: str, x: Value, channels: int, kernel: int, *,
        stride: int = 1, padding: int = 0, groups: int = 1, dilation: int = 1, bias: bool = False,
    ) -> Value:  # fmt: skip
        """A square 2-D convolution of (C, H, W); weight (out, in / groups, k, k)."""
        spans = [(size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for size in x.shape[1:]]
        inner = x.shape[0] // groups
        count = self.weight(f"{name}.weight", channels, inner, kernel, kernel)
        count += self.weight(f"{name}.bias", channels) if bias else 0
        shape = (channels, *spans)
        operations = flops.conv(shape, inner, (kernel, kernel))
        op_class = flops.conv_class(groups, x.shape[0])
        return self.op(name, "Conv2d", op_class, [x], shape, operations=operations, weights=count)

    def attention(self, name: str, query: Value, key: Value, value: Value, heads: int) -> Value:
        """Eager multi-head attention of (tokens, width) values: scores, softmax, weighted sum."""
        tokens, keys, width = query.shape[0], key.shape[0], query.shape[1]
        scores_shape = (heads, tokens, keys)
        each = heads * flops.gemm(tokens, width // heads, keys)
        scores = self.op(f"{name}.scores", "MatMul", "matmul", [query, key], scores_shape, operations=each)
        soft = flops.per_element("softmax", scores_shape)
        weights = self.op(f"{name}.softmax", "Softmax", "softmax", [scores], scores_shape, operations=soft)
        return self.op(f"{name}.context", "MatMul", "matmul", [weights, value], query.shape, operations=each)

    def elementwise(self, name: str, kind: str, *values: Value) -> Value:
        """An element by element operator; the shape is the first value's."""
        shape = values[0].shape
        operations = flops.per_element("elementwise", shape)
        return self.op(name, kind, "elementwise", values, shape, operations=operations)

    def pool(self, name: str, x: Value, kernel: int, stride: int, padding: int) -> Value:
        """A square pooling of (C, H, W)."""
        shape = (x.shape[0], *((size + 2 * padding - kernel) // stride + 1 for size in x.shape[1:]))
        operations = flops.pool(shape, (kernel, kernel))
        return self.op(name, "MaxPool2d", "pool", [x], shape, operations=operations)

    def mean(self, name: str, x: Value, shape: Sequence[int]) -> Value:
        """A mean over the axes that `shape` leaves out."""
        return self.op(name, "Mean", "pool", [x], shape, operations=x.size)

    def view(self, name: str, x: Value, shape: Sequence[int]) -> Value:
        """The same or some of the elements of `x` in another shape, without a copy."""
        return self.op(name, "View", "movement", [x], shape, operations=0, alias=True)

    def unknown(self, name: str, kind: str, x: Value) -> None:
        """A part whose cost is not known."""
        self.op(name, kind, "unknown", [x], x.shape, operations=None)

    def peak(self, *outputs: Value) -> int:
        """Largest number of activation elements alive at once, `outputs` kept to the end."""
        return flops.liveness(self.steps, self.inputs, [value.name for value in outputs])

    def fused_peak(self, *outputs: Value) -> PeakFact | None:
        """Where the peak is with norms and activation functions fused, `outputs` kept to the end."""
        found = peaks.find(self.steps, self.inputs, [value.name for value in outputs])
        # Values are called "<step>:<operator>", which tells them apart; people know the operator.
        return found and replace(found, tensor=found.tensor.partition(":")[2] or found.tensor)
