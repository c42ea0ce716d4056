"""An order of operators in which less is alive at once: any topological order computes the same."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...litert.flatbuffer import Graph

MOST_STATES = 20_000
"""Sets of executed operators that are looked at before the search gives up: a second of work."""
ALIGNMENT = 16


@dataclass(frozen=True)
class Work:
    """One operator for the search: tensors that it reads and writes, and those it has to wait for."""

    reads: frozenset[int]
    writes: frozenset[int]


def apply(model: Any) -> bool:
    """Put the main graph's operators into the order with the lowest peak; True where that changed anything."""
    graph = Graph(model)
    if any(tensor.isVariable for tensor in graph.subgraph.tensors):
        return False  # what a variable holds depends on the order of its reads and writes
    sizes = {t: _bytes(graph, t) for t in range(len(graph.subgraph.tensors)) if not graph.is_constant(t)}
    works = [Work(frozenset(t for t in op.inputs if t in sizes), frozenset(op.outputs)) for op in graph.ops]
    order = lowest(works, sizes, graph.inputs, graph.outputs)
    order = order or greedy(works, sizes, graph.inputs, graph.outputs)
    given = list(range(len(works)))
    if peak(works, sizes, graph.inputs, graph.outputs, order) >= peak(
        works, sizes, graph.inputs, graph.outputs, given
    ):
        return False
    operators = graph.subgraph.operators
    graph.subgraph.operators = [operators[index] for index in order]
    return True


def peak(
    works: Sequence[Work],
    sizes: Mapping[int, int],
    inputs: Sequence[int],
    outputs: Sequence[int],
    order: Sequence[int],
) -> int:
    """Most bytes alive at once when `works` run in `order`; inputs live to their last reader, outputs to the end."""
    waiting = {t: sum(t in work.reads for work in works) for t in sizes}
    alive = set(inputs)
    most = sum(sizes[t] for t in alive)
    for index in order:
        alive |= works[index].writes
        most = max(most, sum(sizes[t] for t in alive))
        for tensor in works[index].reads:
            waiting[tensor] -= 1
        alive -= {t for t in alive if not waiting[t] and t not in outputs}
    return most


def lowest(
    works: Sequence[Work], sizes: Mapping[int, int], inputs: Sequence[int], outputs: Sequence[int]
) -> list[int] | None:
    """A topological order with the lowest possible peak, or None where the search gave up.

    Dijkstra over sets of executed operators, where a path costs its highest peak instead of a sum (a bottleneck
    shortest path). What is alive depends on the set alone and not on the order in it, so each set is seen once.
    """
    made = {t: index for index, work in enumerate(works) for t in work.writes}
    needs = [_union(1 << made[t] for t in work.reads if t in made) for work in works]
    readers = {t: _union(1 << i for i, work in enumerate(works) if t in work.reads) for t in sizes}
    kept, everything = set(outputs), (1 << len(works)) - 1

    def alive(done: int) -> frozenset[int]:
        present = [*inputs, *(t for i, work in enumerate(works) if done >> i & 1 for t in work.writes)]
        return frozenset(t for t in present if t in kept or readers[t] & ~done)

    queue: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(works), 0, ())]
    seen: set[int] = set()
    while queue and len(seen) < MOST_STATES:
        cost, _, done, order = heapq.heappop(queue)
        if done == everything:
            return list(order)
        if done in seen:
            continue
        seen.add(done)
        here = alive(done)
        held = sum(sizes[t] for t in here)
        for index, work in enumerate(works):
            after = done | 1 << index
            if done >> index & 1 or needs[index] & ~done or after in seen:
                continue
            # An input that is read for the last time stays until its reader is through.
            now = held + sum(sizes[t] for t in work.writes if t not in here)
            heapq.heappush(queue, (max(cost, now), len(works) - len(order) - 1, after, (*order, index)))
    return None


def greedy(
    works: Sequence[Work], sizes: Mapping[int, int], inputs: Sequence[int], outputs: Sequence[int]
) -> list[int]:
    """A topological order that always takes the operator after which least is alive; the first of several.

    For graphs that are too wide for `lowest`: good where branches end small, and never proved the best.
    """
    waiting = {t: sum(t in work.reads for work in works) for t in sizes}
    made = {t for work in works for t in work.writes}
    alive, done = set(inputs), set[int]()
    order: list[int] = []

    def after(index: int) -> int:
        work = works[index]
        freed = {t for t in work.reads if waiting[t] == 1 and t not in outputs}
        return sum(sizes[t] for t in work.writes - alive) - sum(sizes[t] for t in freed & alive)

    while len(order) < len(works):
        ready = [
            index
            for index, work in enumerate(works)
            if index not in done and all(t in alive for t in work.reads if t in made)
        ]
        best = min(ready, key=lambda index: (after(index), index))
        order.append(best)
        done.add(best)
        alive |= works[best].writes
        for tensor in works[best].reads:
            waiting[tensor] -= 1
        alive -= {t for t in works[best].reads if not waiting[t] and t not in outputs}
    return order


def _union(bits: Any) -> int:
    total = 0
    for bit in bits:
        total |= bit
    return total


def _bytes(graph: Graph, tensor: int) -> int:
    from ai_edge_litert import schema_py_generated as schema

    widths = {
        schema.TensorType.INT8: 1, schema.TensorType.UINT8: 1, schema.TensorType.BOOL: 1,
        schema.TensorType.INT16: 2, schema.TensorType.INT64: 8,
    }  # fmt: skip
    size = math.prod(graph.shape(tensor)) * widths.get(graph.subgraph.tensors[tensor].type, 4)
    return -(-size // ALIGNMENT) * ALIGNMENT
