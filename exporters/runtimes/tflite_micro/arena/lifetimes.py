"""From first write to last use: when each tensor and each scratch buffer is alive, counted as the interpreter runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .....targets.errors import Unsupported
from .reading import Operator, Program

NEVER = -1
"""First or last step of a tensor that no operator writes or reads."""

Key = tuple[int, int]
"""(subgraph, tensor) or (subgraph, operator)."""


@dataclass
class Lifetimes:
    """Steps are counted from 0 (the inputs are set), one for each operator, and one where a subgraph is entered."""

    first: dict[Key, int] = field(default_factory=dict)
    """First step of a tensor, by (subgraph, tensor); those that are absent have none (NEVER)."""
    last: dict[Key, int] = field(default_factory=dict)
    operators: dict[Key, tuple[int, int]] = field(default_factory=dict)
    """Steps of an operator, by (subgraph, operator): more than one where it runs subgraphs."""
    step: int = 0

    def tensor(self, key: Key) -> tuple[int, int]:
        """(first, last) of a tensor."""
        return self.first.get(key, NEVER), self.last.get(key, NEVER)


def lifetimes(program: Program) -> Lifetimes:
    """After AllocationInfoBuilder::MarkAllocationLifetimes of micro/micro_allocation_info.cc.

    Raises Unsupported where subgraphs call each other in a circle.
    """
    found = Lifetimes()
    _visit(program, 0, found, ())
    return found


def _visit(program: Program, number: int, found: Lifetimes, callers: tuple[int, ...]) -> None:
    if number in callers:
        raise Unsupported("subgraphs call each other in a circle", where=f"subgraphs[{number}]")
    graph = program.subgraphs[number]
    _mark(found, number, graph.inputs)
    for index, op in enumerate(graph.operators):
        found.step += 1
        for tensor in op.outputs:
            found.first.setdefault((number, tensor), found.step)
        entered = found.step
        for call in op.calls:
            found.step += 1
            _visit(program, call, found, (*callers, number))
        for tensor in (*_given(op), *op.outputs):
            found.last[number, tensor] = found.step
        before = found.operators.get((number, index), (entered, entered))
        found.operators[number, index] = (before[0], found.step)
    _mark(found, number, graph.outputs)


def _mark(found: Lifetimes, number: int, tensors: Sequence[int]) -> None:
    for tensor in tensors:
        found.first.setdefault((number, tensor), found.step)
        found.last[number, tensor] = found.step


def _given(op: Operator) -> tuple[int, ...]:
    return tuple(tensor for tensor in op.inputs if tensor >= 0)


def names(program: Program, found: Lifetimes) -> Mapping[int, str]:
    """What runs at each step, as in "CONV_2D (operator 3)"; steps without an operator are absent."""
    told: dict[int, str] = {}
    for (number, index), (first, last) in found.operators.items():
        kind = program.subgraphs[number].operators[index].kind
        inside = f" of subgraph {number}" if number else ""
        for step in range(first, last + 1):
            told.setdefault(step, f"{kind} (operator {index}{inside})")
    return told
