"""Multiply-accumulates of one MIL operation from the shapes that the program declares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ...mil.program import Constant, Operation, Reference, ValueType

Types = Mapping[str, ValueType]
Constants = Callable[[Reference | Constant], Constant | None]
Shape = tuple[int, ...]

RECURRENT = ("lstm", "gru", "rnn")


def multiply_accumulates(operation: Operation, types: Types, constant: Constants) -> int:
    """Products that one inference sums up in this operation; 0 for one that sums none. Free sizes count as 1."""

    def shape(name: str, position: int = 0) -> Shape:
        arguments = operation.inputs.get(name, ())
        return _shape(arguments[position], types) if len(arguments) > position else ()

    if not operation.outputs:
        return 0
    out = math.prod(_sizes(operation.outputs[0].type))
    if operation.type == "conv":  # weight: (out, in / groups, *kernel)
        return out * math.prod(shape("weight")[1:])
    if operation.type == "conv_transpose":  # each input element meets (out / groups, *kernel)
        return math.prod(shape("x")) * math.prod(shape("weight")[1:])
    if operation.type == "linear":  # weight: (out, in)
        return out * shape("weight")[-1]
    if operation.type == "matmul":
        given = operation.inputs.get("transpose_x", ())
        stored = constant(given[0]) if given else None
        turned = stored is not None and bool(stored.load())
        sizes = shape("x")
        return out * (sizes[-2] if turned and len(sizes) > 1 else sizes[-1])
    if operation.type in RECURRENT:
        return _recurrent(operation, shape)
    if operation.type == "scaled_dot_product_attention":  # (..., L, E), (..., S, E), (..., S, V)
        query, key, value = shape("query"), shape("key"), shape("value")
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if operation.type == "einsum":
        return _einsum(operation, types, constant)
    return 0


def _recurrent(operation: Operation, shape: Callable[[str], Shape]) -> int:
    """Every step of every sequence multiplies with all of the weights; x is (steps, batch, features)."""
    weights = sum(
        math.prod(shape(name)) for name in operation.inputs if name.startswith(("weight_ih", "weight_hh"))
    )
    return math.prod(shape("x")[:2]) * weights


def _einsum(operation: Operation, types: Types, constant: Constants) -> int:
    """The product of the sizes of all labels of the equation, as in "abc,cd->abd"."""
    given = operation.inputs.get("equation", ())
    stored = constant(given[0]) if given else None
    equation = stored.load() if stored is not None else ""
    if not isinstance(equation, str):
        return 0
    sizes: dict[str, int] = {}
    for labels, argument in zip(
        equation.partition("->")[0].split(","), operation.inputs["values"], strict=False
    ):
        sizes.update(zip(labels.strip(), _shape(argument, types), strict=False))
    return math.prod(sizes.values()) if len(operation.inputs["values"]) > 1 else 0


def _shape(argument: Reference | Constant, types: Types) -> Shape:
    kind = argument.type if isinstance(argument, Constant) else types[argument.name]
    return _sizes(kind)


def _sizes(kind: ValueType) -> Shape:
    return tuple(size or 1 for size in kind.shape)
