"""Control flow: branches, loops, and the lists of tensors that loops fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...targets.errors import SourceUnreadable
from ..program import Operation, UnknownOperator
from ..values import CARRIERS, Inputs, OpFunction, Tensor, Value, bounded

MAX_ITERATIONS = 1 << 20
"""Most turns of one loop: what keeps a loop that never ends from never ending."""

MAX_LENGTH = 1 << 20
"""Most elements of one list of tensors."""


@dataclass(frozen=True)
class TensorList:
    """A MIL list: tensors of one shape; `element` is what a place holds that was never written."""

    element: Tensor
    elements: tuple[Tensor, ...]

    def written(self, index: int, value: Tensor, op: Operation) -> TensorList:
        """This list with `value` at `index`; it grows to hold it."""
        if not 0 <= index < MAX_LENGTH:
            raise SourceUnreadable(f"the index {index} of a list", where=op.name)
        missing = max(index + 1 - len(self.elements), 0)
        elements = [*self.elements, *[self.element] * missing]
        elements[index] = value
        return TensorList(self.element, tuple(elements))

    def read(self, index: int, op: Operation) -> Tensor:
        """The element at `index`."""
        if not 0 <= index < len(self.elements):
            raise SourceUnreadable(f"the index {index} of a list of {len(self.elements)}", where=op.name)
        return self.elements[index]


def _run(op: Operation, x: Inputs, block: int, values: Sequence[Value]) -> tuple[Value, ...]:
    if x.run is None or block >= len(op.blocks):
        raise SourceUnreadable(f"its block {block} is missing", where=op.name)
    return x.run(block, values)


def cond(op: Operation, x: Inputs) -> tuple[Value, ...]:
    """Block 0 where `pred` holds, block 1 otherwise."""
    return _run(op, x, 0 if x.flag("pred") else 1, ())


def while_loop(op: Operation, x: Inputs) -> tuple[Value, ...]:
    """Block 1 (the body) as long as block 0 (the condition) holds of the loop's values."""
    values = x.many("loop_vars")
    for _ in range(MAX_ITERATIONS):
        (goes_on,) = _run(op, x, 0, values)
        if not bool(goes_on):
            return values
        values = _run(op, x, 1, values)
    raise SourceUnreadable(f"the loop goes on after {MAX_ITERATIONS} turns", where=op.name)


def select(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """`a` where `cond` holds, `b` elsewhere; all three broadcast."""
    return (torch.where(x["cond"], x["a"], x["b"]),)


def make_list(op: Operation, x: Inputs) -> tuple[TensorList, ...]:
    """A list of `init_length` tensors of zeros."""
    dtype = x.text("dtype", "fp32")
    sizes = x.many("elem_shape")
    if dtype not in CARRIERS or any(isinstance(size, str) for size in sizes):
        raise UnknownOperator.at(
            op.name, f"make_list of {dtype} with elem_shape={[str(size) for size in sizes]}"
        )
    shape = bounded((int(size) for tensor in sizes for size in torch.as_tensor(tensor).reshape(-1)), op.name)
    element = torch.zeros(shape, dtype=CARRIERS[dtype])
    length = x.integer("init_length", 1)
    if not 0 <= length <= MAX_LENGTH:
        raise SourceUnreadable(f"init_length is {length}", where=op.name)
    return (TensorList(element, (element,) * length),)


def list_length(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """How many elements `ls` has."""
    return (torch.tensor(len(_list(op, x).elements), dtype=torch.int32),)


def list_write(op: Operation, x: Inputs) -> tuple[TensorList, ...]:
    """`ls` with `value` at `index`, longer where `index` lies beyond its end."""
    return (_list(op, x).written(x.integer("index"), x["value"], op),)


def list_read(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The element of `ls` at `index`."""
    return (_list(op, x).read(x.integer("index"), op),)


def list_gather(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The elements of `ls` at `indices`, stacked on a new first axis."""
    items = _list(op, x)
    chosen = [items.read(index, op) for index in x.integers("indices")]
    return (torch.stack(chosen) if chosen else items.element.new_zeros((0, *items.element.shape)),)


def list_scatter(op: Operation, x: Inputs) -> tuple[TensorList, ...]:
    """`ls` with the slices of `value` at `indices`."""
    items, values, indices = _list(op, x), x["value"], x.integers("indices")
    if values.shape[0] != len(indices):
        raise SourceUnreadable(f"{values.shape[0]} values for {len(indices)} indices", where=op.name)
    for index, value in zip(indices, values, strict=True):
        items = items.written(index, value, op)
    return (items,)


def _list(op: Operation, x: Inputs) -> TensorList:
    items = x["ls"]
    if not isinstance(items, TensorList):
        raise SourceUnreadable("ls is not a list", where=op.name)
    return items


OPS: dict[str, OpFunction] = {
    "cond": cond,
    "list_gather": list_gather,
    "list_length": list_length,
    "list_read": list_read,
    "list_scatter": list_scatter,
    "list_write": list_write,
    "make_list": make_list,
    "select": select,
    "while_loop": while_loop,
}
