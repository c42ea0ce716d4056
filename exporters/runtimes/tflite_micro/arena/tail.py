"""The arena's far end: what the interpreter keeps for the model's life, in the order in which it allocates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .greedy import ALIGNMENT, align
from .kernels import Memory, quantization
from .reading import ONLINE, Program, Subgraph, Tensor
from .structures import Structures


@dataclass
class Tail:
    """A stack that grows from the arena's end downwards; its end is aligned to 16 bytes."""

    sizes: Structures
    bytes: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes with their padding, by what they are for."""

    def put(self, part: str, size: int, alignment: int = ALIGNMENT) -> None:
        """Allocate `size` bytes for `part`."""
        end = align(self.bytes + size, alignment)
        self.parts[part] = self.parts.get(part, 0) + end - self.bytes
        self.bytes = end

    def put_structures(self, part: str, name: str, count: int = 1) -> None:
        """Allocate `count` structures side by side."""
        size, alignment = self.sizes.layouts[name]
        self.put(part, size * count, alignment)


def before_planning(program: Program, memories: Sequence[Sequence[Memory]], sizes: Structures) -> Tail:
    """The tail when the memory planner starts: everything but the structures of inputs and outputs.

    After MicroAllocator::Create, StartModelAllocation, FinishModelAllocation (micro/micro_allocator.cc) and
    MicroInterpreter::AllocateTensors (micro/micro_interpreter.cc). `memories`: by subgraph and operator.
    """
    tail = Tail(sizes)
    for name in (
        "SingleArenaBufferAllocator",
        "GreedyMemoryPlanner",
        "MicroAllocator",
        "MicroBuiltinDataAllocator",
    ):
        tail.put_structures("interpreter", name)
    tail.put_structures("interpreter", "SubgraphAllocations", len(program.subgraphs))
    for graph in program.subgraphs:
        tail.put_structures("tensors", "TfLiteEvalTensor", len(graph.tensors))
    for graph in program.subgraphs:
        tail.put_structures("operators", "NodeAndRegistration", len(graph.operators))
    for graph in program.subgraphs:
        for op in graph.operators:
            if (options := sizes.options(op.kind)) is not None:
                tail.put("options", *options)
    for memory in (memory for one in memories for memory in one):
        for size in memory.persistent:
            tail.put("kernels", size)
    scratch = sum(len(memory.scratch) for one in memories for memory in one)
    if scratch:
        tail.put_structures("operators", "ScratchBufferHandle", scratch)
    _put_variables(tail, program)
    return tail


def _put_variables(tail: Tail, program: Program) -> None:
    for graph, offsets in zip(program.subgraphs, offsets_by_subgraph(program), strict=True):
        for tensor, offset in zip(graph.tensors, offsets, strict=True):
            if tensor.variable and offset == ONLINE:
                tail.put("variables", tensor.bytes)


def put_ports(tail: Tail, graph: Subgraph) -> None:
    """The structures of the main subgraph's inputs and outputs, allocated after the plan."""
    for ports in (graph.inputs, graph.outputs):
        tail.put("inputs and outputs", tail.sizes.pointer * len(ports))
        for index in ports:
            _put_tensor(tail, graph.tensors[index])


def _put_tensor(tail: Tail, tensor: Tensor) -> None:
    tail.put_structures("inputs and outputs", "TfLiteTensor")
    if tensor.scales:
        structure, zero_points = quantization(tensor, tail.sizes)
        tail.put("inputs and outputs", structure, tail.sizes.layouts["TfLiteAffineQuantization"][1])
        tail.put("inputs and outputs", zero_points, 4)


def offsets_by_subgraph(program: Program) -> list[tuple[int, ...]]:
    """The file's own offset of each tensor, ONLINE where it has none."""
    found, start = [], 0
    for graph in program.subgraphs:
        count = len(graph.tensors)
        given = program.offline[start : start + count] if program.offline is not None else (ONLINE,) * count
        found.append(tuple(given))
        start += count
    return found
