"""The arithmetic of operators: shapes to operations, and a graph to the activations alive at once.

A multiply-add counts as 2. Biases of convolutions and matrix products are left out, as
`torch.utils.flop_counter` does, so that figures can be compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

PER_ELEMENT: Mapping[str, int] = {"elementwise": 1, "norm": 5, "softmax": 5, "embedding": 0, "movement": 0}
"""Operations per output element by op class: a convention, not a measurement.

norm: subtract, square-accumulate, scale, multiply, add. softmax: max, subtract, exp, sum, divide.
"""


def elements(shape: Iterable[int]) -> int:
    """Number of elements of a tensor; 1 for a scalar."""
    return prod(shape)


def conv(out_shape: Sequence[int], in_channels_per_group: int, kernel: Sequence[int]) -> int:
    """Operations of a convolution: 2 · |out| · (C_in / groups) · Π kernel. `out_shape` is in any layout."""
    return 2 * prod(out_shape) * in_channels_per_group * prod(kernel)


def conv_transpose(in_shape: Sequence[int], out_channels_per_group: int, kernel: Sequence[int]) -> int:
    """Operations of a transposed convolution: every input element feeds one kernel per output channel."""
    return 2 * prod(in_shape) * out_channels_per_group * prod(kernel)


def conv_class(groups: int, in_channels: int) -> str:
    """The op class of a convolution: depthwise when every input channel is a group of its own."""
    return "depthwise" if groups > 1 and groups == in_channels else "conv"


def gemm(rows: int, inner: int, columns: int) -> int:
    """Operations of a matrix product (rows × inner) · (inner × columns)."""
    return 2 * rows * inner * columns


def matmul(left: Sequence[int], right: Sequence[int]) -> int | None:
    """Operations of `left @ right` with numpy's broadcasting; None when the shapes do not fit."""
    if not left or not right:
        return None
    rows, inner = (left[-2] if len(left) > 1 else 1), left[-1]
    columns = right[-1] if len(right) > 1 else 1
    if inner != (right[-2] if len(right) > 1 else right[-1]):
        return None
    batch = broadcast(left[:-2], right[:-2])
    return None if batch is None else prod(batch) * gemm(rows, inner, columns)


def broadcast(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...] | None:
    """The shape of two broadcast shapes; None when they do not fit."""
    rank = max(len(left), len(right))
    padded = zip(
        (1,) * (rank - len(left)) + tuple(left), (1,) * (rank - len(right)) + tuple(right), strict=True
    )
    shape = []
    for a, b in padded:
        if a != b and 1 not in (a, b):
            return None
        shape.append(b if a == 1 else a)
    return tuple(shape)


def attention(batch_heads: int, queries: int, keys: int, head_dim: int, value_dim: int | None = None) -> int:
    """Operations of scores Q·Kᵀ and of the weighted sum of the values, without the softmax."""
    return batch_heads * (gemm(queries, head_dim, keys) + gemm(queries, keys, value_dim or head_dim))


def recurrent(steps: int, inputs: int, units: int, gates: int) -> int:
    """Operations of an LSTM (4 gates), GRU (3) or RNN (1) layer over `steps`, batch 1, one direction."""
    return 2 * steps * gates * units * (inputs + units)


def pool(out_shape: Sequence[int], kernel: Sequence[int]) -> int:
    """Operations of a pooling layer: one per element of each window."""
    return prod(out_shape) * prod(kernel)


def per_element(op_class: str, out_shape: Sequence[int]) -> int | None:
    """Operations of an operator whose cost is proportional to its output; None for other classes."""
    cost = PER_ELEMENT.get(op_class)
    return None if cost is None else cost * prod(out_shape)


@dataclass(frozen=True)
class Step:
    """One operator for the liveness pass: value names that it reads, and sizes in elements that it writes."""

    inputs: Sequence[str]
    outputs: Mapping[str, int]
    alias: bool = False
    """True when the outputs are views of the first input (reshape, permute, slice) and take no memory."""
    name: str = ""
    """The operator's name, as in `OpFact.name`; likewise its kind and class."""
    kind: str = ""
    op_class: str = ""


def lifetimes(
    steps: Sequence[Step], inputs: Mapping[str, int], outputs: Iterable[str]
) -> tuple[dict[str, str], dict[str, int], dict[str, int]]:
    """The value whose memory each name has, that memory's elements, and the step after which it is free.

    A view has the memory of what it looks at. Inputs that nothing reads are free before the first step (-1);
    outputs live beyond the last one.
    """
    storage = {name: name for name in inputs}
    size = dict(inputs)
    last_use = dict.fromkeys(inputs, -1)
    for index, step in enumerate(steps):
        for name in step.inputs:
            if name in storage:
                last_use[storage[name]] = index
        viewed = storage.get(step.inputs[0]) if step.alias and step.inputs else None
        for name, count in step.outputs.items():
            storage[name] = viewed or name
            if viewed is None:
                size[name] = count
            last_use[storage[name]] = index
    for name in outputs:
        if name in storage:
            last_use[storage[name]] = len(steps)
    return storage, size, last_use


def liveness(steps: Sequence[Step], inputs: Mapping[str, int], outputs: Iterable[str]) -> int:
    """Largest number of activation elements alive at once when `steps` run in order.

    `inputs` are the model's inputs with their sizes; they live until their last use. `outputs` live to the
    end. Names that nothing in `steps` or `inputs` makes (weights) count nothing. A value lives while any of
    its views does.
    """
    storage, size, last_use = lifetimes(steps, inputs, outputs)
    dying: dict[int, list[str]] = {}
    for name, index in last_use.items():
        dying.setdefault(index, []).append(name)
    live = peak = sum(inputs.values())
    born: set[str] = set(inputs)
    for index, step in enumerate(steps):
        for name in step.outputs:
            if storage[name] not in born:
                born.add(storage[name])
                live += size[storage[name]]
        peak = max(peak, live)
        live -= sum(size[name] for name in dying.get(index, ()))
    return peak


def einsum(equation: str, shapes: Sequence[Sequence[int] | None]) -> int | None:
    """Operations of an einsum: one multiply-add per point of the index space, one addition for a single input.

    None for an equation with "..." or an input whose shape is unknown or of another rank than its term.
    """
    terms = equation.replace(" ", "").split("->")[0]
    sizes: dict[str, int] = {}
    for term, shape in zip(terms.split(","), shapes, strict=True):
        if shape is None or "." in terms or len(term) != len(shape):
            return None
        sizes.update(zip(term, shape, strict=True))
    return (2 if len(shapes) > 1 else 1) * prod(sizes.values())
