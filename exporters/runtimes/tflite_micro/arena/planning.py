"""`plan`: the arena of a .tflite file in TensorFlow Lite Micro, its head and tail, and what makes the peak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import lifetimes as lives
from . import tail as tails
from .greedy import Need, align, extent, place
from .kernels import Call, Memory, memory, temporary
from .reading import ONLINE, Program, read
from .structures import Structures, structures

SCRATCH_REQUESTS = 12
"""Requests that the interpreter keeps room for beyond those made (kMaxScratchBuffersPerOp)."""


@dataclass(frozen=True)
class Placed:
    """One buffer in the head: a tensor's data, or an operator's scratch buffer."""

    name: str
    """The tensor's name, or "scratch of CONV_2D (operator 3)"."""
    tensor: tuple[int, int] | None
    """(subgraph, tensor); None for a scratch buffer."""
    bytes: int
    """A multiple of 16."""
    offset: int
    first: int
    """Step at which it is first written: 0 sets the inputs, then one for each operator; -1: nothing writes it."""
    last: int
    """Step at which it is last used."""


@dataclass(frozen=True)
class ArenaPlan:
    """The arena of one model, in bytes; the int8 reference kernels are counted (CMSIS-NN's take more scratch)."""

    pointer_size: int
    """4 or 8: of the tail's structures."""
    head: int
    """Tensors and scratch buffers, shared by lifetime: what TensorFlow Lite Micro's planner comes to."""
    tail: int
    """What stays: structures for each tensor and operator, parameters for each channel."""
    needed: int
    """The smallest arena, aligned to 16, that allocation succeeds in: never below `total`, and above it where the
    planner's own working memory (given back afterwards) is larger than the head. `kTensorArenaSize` is this."""
    peak_operator: str
    """Where most bytes are alive at once, as in "CONV_2D (operator 3)"."""
    peak_tensor: str
    """The largest buffer that is alive there."""
    peak_tensor_bytes: int
    peak_bytes: int
    """Bytes alive there; `head` is never below, and above where the plan leaves gaps."""
    buffers: tuple[Placed, ...]
    """Every buffer of the head, tensors first."""
    parts: Mapping[str, int]
    """The tail by what it is for."""
    version: str
    """The TensorFlow Lite Micro whose structures and kernels are counted."""

    @property
    def total(self) -> int:
        """What the interpreter reports as used (MicroInterpreter::arena_used_bytes)."""
        return self.head + self.tail

    @property
    def offsets(self) -> dict[tuple[int, int], int]:
        """Offset from the arena's start of each tensor in the head, by (subgraph, tensor)."""
        return {buffer.tensor: buffer.offset for buffer in self.buffers if buffer.tensor is not None}


def plan(data: bytes | bytearray, pointer_size: int = 4) -> ArenaPlan:
    """Plan the arena of a .tflite file as TensorFlow Lite Micro does, for pointers of 4 or 8 bytes.

    Raises SourceUnreadable for a damaged file, and Unsupported for buffers outside it, shapes that are only known
    while running, and operators whose kernel is not counted.
    """
    program, sizes = read(data), structures(pointer_size)
    calls = _calls(program, sizes)
    memories = [[memory(call) for call in one] for one in calls]
    found = lives.lifetimes(program)
    named = lives.names(program, found)
    needs, labels = _tensors(program, found)
    for need, label in _scratch(memories, found, named):
        needs.append(need)
        labels.append((label, None))
    offsets = place(needs)
    head = extent(needs, offsets)
    tail = tails.before_planning(program, memories, sizes)
    working = max(_preparing(calls, memories, tail), _planning(program, memories, tail, len(needs)))
    tails.put_ports(tail, program.subgraphs[0])
    step, alive = _peak(needs)
    largest = max(alive, key=lambda index: needs[index].size, default=None)
    return ArenaPlan(
        pointer_size=pointer_size,
        head=head,
        tail=tail.bytes,
        needed=align(max(head + tail.bytes, working)),
        peak_operator=named.get(step, "the inputs"),
        peak_tensor=labels[largest][0] if largest is not None else "",
        peak_tensor_bytes=needs[largest].size if largest is not None else 0,
        peak_bytes=sum(needs[index].size for index in alive),
        buffers=tuple(
            Placed(name, tensor, need.size, offset, need.first, need.last)
            for need, (name, tensor), offset in zip(needs, labels, offsets, strict=True)
        ),
        parts=dict(tail.parts),
        version=sizes.version,
    )


def _calls(program: Program, sizes: Structures) -> list[list[Call]]:
    return [
        [
            Call(
                op,
                [graph.tensors[t] if t >= 0 else None for t in op.inputs],
                [graph.tensors[t] for t in op.outputs],
                sizes,
            )
            for op in graph.operators
        ]
        for graph in program.subgraphs
    ]


Label = tuple[str, tuple[int, int] | None]


def _tensors(program: Program, found: lives.Lifetimes) -> tuple[list[Need], list[Label]]:
    """Every tensor that needs memory, in the file's order: neither constant nor empty."""
    needs: list[Need] = []
    labels: list[Label] = []
    given = tails.offsets_by_subgraph(program)
    for number, graph in enumerate(program.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            fixed = given[number][index]
            wanted = fixed != ONLINE if tensor.variable else not tensor.constant and tensor.bytes > 0
            if wanted:
                first, last = found.tensor((number, index))
                needs.append(Need(align(tensor.bytes), first, last, None if fixed == ONLINE else fixed))
                labels.append((tensor.name, (number, index)))
    return needs, labels


def _scratch(
    memories: Sequence[Sequence[Memory]], found: lives.Lifetimes, named: Mapping[int, str]
) -> list[tuple[Need, str]]:
    """Scratch buffers in the order in which the kernels ask for them."""
    needs = []
    for number, one in enumerate(memories):
        for index, memory_ in enumerate(one):
            first, last = found.operators.get((number, index), (lives.NEVER, lives.NEVER))
            label = f"scratch of {named.get(first, 'an operator that does not run')}"
            needs += [(Need(align(size), first, last), label) for size in memory_.scratch]
    return needs


def _peak(needs: Sequence[Need]) -> tuple[int, list[int]]:
    """The step with most bytes alive (the first of several) and the buffers that are alive there."""
    best: tuple[int, list[int]] = (0, [])
    most = -1
    for step in sorted({need.first for need in needs}):
        alive = [index for index, need in enumerate(needs) if need.first <= step <= need.last]
        bytes_ = sum(needs[index].size for index in alive)
        if bytes_ > most:
            most, best = bytes_, (step, alive)
    return best


def _preparing(calls: list[list[Call]], memories: list[list[Memory]], tail: tails.Tail) -> int:
    """An upper bound of the arena while kernels prepare: requests and borrowed structures below the tail so far."""
    asked = sum(len(memory_.scratch) for one in memories for memory_ in one)
    requests = align((SCRATCH_REQUESTS + asked) * tail.sizes.size("ScratchBufferRequest"), 8)
    pairs = [pair for one in zip(calls, memories, strict=True) for pair in zip(*one, strict=True)]
    later = sum(_prepared(memory_) for _, memory_ in pairs)
    most = 0
    for call, memory_ in pairs:
        later -= _prepared(memory_)
        most = max(most, temporary(call) - later)
    return requests + most + tail.bytes


def _prepared(memory_: Memory) -> int:
    return sum(align(size) for size in memory_.persistent[memory_.at_start :])


def _planning(program: Program, memories: list[list[Memory]], tail: tails.Tail, planned: int) -> int:
    """The arena while the planner works (CommitStaticMemoryPlan): its lists lie below the tail until it is done."""
    sizes = tail.sizes
    asked = sum(len(memory_.scratch) for one in memories for memory_ in one)
    tensors = sum(len(graph.tensors) for graph in program.subgraphs)
    requests = (SCRATCH_REQUESTS + asked) * sizes.size("ScratchBufferRequest")
    offsets = align(requests, sizes.pointer) + sizes.pointer * len(program.subgraphs)
    information = align(offsets, sizes.layouts["AllocationInfo"][1])
    lists = align(information + (tensors + asked) * sizes.size("AllocationInfo"))
    # Of each buffer: what was asked, its size and number sorted, its place in the list, its offset.
    each = sizes.size("BufferRequirements") + sizes.size("ListEntry") + 3 * 4
    return lists + align(planned * each) + align(tail.bytes)
