"""Constants that a small ONNX file can blow up: folds of hundreds of GiB are refused before a runtime tries.

Runtimes compute constant subgraphs while loading. A file of 200 bytes may hold ConstantOfShape with a shape
of a billion elements, or build that shape by Concat and Mul. So shapes of constants, and the values of
small integer ones, are followed through the operators that exporters use for shape arithmetic.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from math import prod

from ...targets.errors import SourceUnreadable
from ..flops import broadcast
from .graph import SMALL, Graph, Node

MAX_ELEMENTS = 1 << 28
"""Largest constant that may be computed from smaller ones: 1 GiB as float32."""


@dataclass(frozen=True)
class Constant:
    """What is known of a constant value: its shape, and its numbers where it is a small integer tensor."""

    shape: tuple[int, ...]
    integers: tuple[int, ...] | None = None


def check_folds(
    graph: Graph, outer: MutableMapping[str, Constant], where: str
) -> MutableMapping[str, Constant]:
    """Follow the constants of one graph; raises `SourceUnreadable` at the first that grows too large.

    Returns the constants of this graph and of those around it, for its subgraphs.
    """
    own: dict[str, Constant] = {}
    known = ChainMap(own, outer)
    for tensor in graph.initializers:
        known[tensor.name] = Constant(tensor.shape, tensor.integers())
    for node in graph.nodes:
        result = _fold(node, known)
        if result is None or len(node.outputs) != 1:
            for name in node.outputs:
                own.pop(name, None)
            continue
        if prod(result.shape) > MAX_ELEMENTS or any(size < 0 for size in result.shape):
            raise SourceUnreadable(
                f"{node.op} makes a constant of shape {list(result.shape)}, over {MAX_ELEMENTS:,} elements",
                where=f"{where}: node {node.label!r}",
                mend="A real model has no such constant; do not load this file.",
            )
        known[node.outputs[0]] = result
    return known


def _fold(node: Node, known: Mapping[str, Constant]) -> Constant | None:
    if node.domain:
        return None
    if node.op == "Constant":
        for tensor in node.tensors():
            return Constant(tensor.shape, tensor.integers())
        if "value_ints" in node.attributes:
            values = node.integers("value_ints")
            return Constant((len(values),), values)
        if "value_int" in node.attributes:
            return Constant((), (node.integer("value_int", 0),))
        return None
    if node.op.startswith("Random") or node.op in ("Bernoulli", "Multinomial"):
        shape = node.integers("shape")
        return Constant(shape) if shape else None
    if node.op in ("ConstantOfShape", "Expand", "OneHot", "Tile"):
        return _grow(node, known)
    fold = _FOLDS.get(node.op)
    arguments = [known.get(name) for name in node.inputs if name]
    found = [argument for argument in arguments if argument is not None]
    if fold is None or not found or len(found) != len(arguments):
        return None
    return fold(node, found)


def _grow(node: Node, known: Mapping[str, Constant]) -> Constant | None:
    """Operators whose output shape is the value of an input: checked even if the data is not constant."""
    at = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1}[node.op]
    control = known.get(node.inputs[at]) if len(node.inputs) > at else None
    if control is None or control.integers is None:
        return None
    base = known.get(node.inputs[0], Constant(()))
    if node.op == "ConstantOfShape":
        return Constant(control.integers)
    if node.op == "OneHot":
        return Constant((*base.shape, *control.integers[:1]))
    if node.op == "Tile":
        ones = (1,) * (len(control.integers) - len(base.shape))
        sizes = zip((*ones, *base.shape), control.integers, strict=False)
        return Constant(tuple(size * repeat for size, repeat in sizes))
    wanted = tuple(abs(size) for size in control.integers)
    return Constant(broadcast(base.shape, wanted) or wanted)


def _same(node: Node, arguments: list[Constant]) -> Constant:
    return arguments[0]


def _same_shape(node: Node, arguments: list[Constant]) -> Constant:
    return Constant(arguments[0].shape)


def _axes(node: Node, arguments: list[Constant]) -> tuple[int, ...]:
    """Axes by attribute (before opset 13) or by second input."""
    return node.integers("axes") or (arguments[1].integers or () if len(arguments) > 1 else ())


def _reshape(node: Node, arguments: list[Constant]) -> Constant | None:
    data = arguments[0]
    wanted = arguments[1].integers if len(arguments) > 1 else node.integers("shape")
    if wanted is None:
        return None
    shape = [data.shape[n] if size == 0 and n < len(data.shape) else size for n, size in enumerate(wanted)]
    if shape.count(-1) == 1:
        rest = prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = prod(data.shape) // rest if rest else 0
    return Constant(tuple(max(0, size) for size in shape), data.integers)


def _unsqueeze(node: Node, arguments: list[Constant]) -> Constant | None:
    shape, axes = list(arguments[0].shape), _axes(node, arguments)
    rank = len(shape) + len(axes)
    for axis in sorted(axis + rank if axis < 0 else axis for axis in axes):
        shape.insert(axis, 1)
    return Constant(tuple(shape), arguments[0].integers)


def _squeeze(node: Node, arguments: list[Constant]) -> Constant | None:
    shape, axes = arguments[0].shape, _axes(node, arguments)
    drop = {axis + len(shape) if axis < 0 else axis for axis in axes}
    kept = tuple(size for n, size in enumerate(shape) if size != 1 or (axes and n not in drop))
    return Constant(kept, arguments[0].integers)


def _transpose(node: Node, arguments: list[Constant]) -> Constant | None:
    shape = arguments[0].shape
    order = node.integers("perm") or tuple(reversed(range(len(shape))))
    if sorted(order) != list(range(len(shape))):
        return None
    return Constant(tuple(shape[axis] for axis in order), arguments[0].integers if len(shape) < 2 else None)


def _shape(node: Node, arguments: list[Constant]) -> Constant:
    shape = arguments[0].shape
    return Constant((len(shape),), shape if "start" not in node.attributes else None)


def _concat(node: Node, arguments: list[Constant]) -> Constant | None:
    axis, shape = node.integer("axis", 0), list(arguments[0].shape)
    if any(len(argument.shape) != len(shape) for argument in arguments) or not -len(shape) <= axis < len(
        shape
    ):
        return None
    shape[axis] = sum(argument.shape[axis] for argument in arguments)
    numbers = [argument.integers for argument in arguments]
    joined = tuple(number for part in numbers if part is not None for number in part)
    complete = all(part is not None for part in numbers) and len(joined) <= SMALL
    return Constant(tuple(shape), joined if complete and len(shape) == 1 else None)


def _range(node: Node, arguments: list[Constant]) -> Constant | None:
    values = [argument.integers for argument in arguments]
    if len(values) != 3 or any(value is None or len(value) != 1 for value in values):
        return None
    start, limit, delta = (value[0] for value in values if value is not None)
    if delta == 0:
        return None
    return Constant((max(0, -(-(limit - start) // delta)),))


def _binary(compute: Callable[[int, int], int] | None) -> Callable[[Node, list[Constant]], Constant | None]:
    """A broadcast operator; the numbers are computed where both sides' are known and of equal length."""

    def fold(node: Node, arguments: list[Constant]) -> Constant | None:
        shape: tuple[int, ...] | None = ()
        for argument in arguments:
            shape = None if shape is None else broadcast(shape, argument.shape)
        if shape is None:
            return None
        if compute is None or len(arguments) != 2:
            return Constant(shape)
        left, right = arguments[0].integers, arguments[1].integers
        if not left or not right or (len(left) != len(right) and 1 not in (len(left), len(right))):
            return Constant(shape)
        length = max(len(left), len(right))
        pairs = zip(left * (length // len(left)), right * (length // len(right)), strict=True)
        # 64-bit arithmetic saturates here: a huge number must stay huge, not wrap to a small one.
        return Constant(shape, tuple(max(-(1 << 63), min(1 << 63, compute(a, b))) for a, b in pairs))

    return fold


def _quotient(left: int, right: int) -> int:
    """Integer division as ONNX does it, towards zero; a division by zero gives 0 here."""
    return 0 if right == 0 else abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)


_FOLDS: dict[str, Callable[[Node, list[Constant]], Constant | None]] = {
    **dict.fromkeys(("Identity", "Cast"), _same),
    **dict.fromkeys(("Neg", "Abs", "Relu", "Not", "Sqrt", "Exp", "Sigmoid", "Tanh"), _same_shape),
    **dict.fromkeys(("Pow", "Where", "Equal", "Less", "Greater", "And", "Or"), _binary(None)),
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Shape": _shape,
    "Concat": _concat,
    "Range": _range,
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _binary(_quotient),
    "Max": _binary(max),
    "Min": _binary(min),
}
