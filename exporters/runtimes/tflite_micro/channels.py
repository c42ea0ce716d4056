"""Which channels of a float graph belong together: what has to be cut in every tensor where one channel goes."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from ...litert.flatbuffer import Graph, Op

SAME = (
    "RELU", "RELU6", "LEAKY_RELU", "HARD_SWISH", "LOGISTIC", "TANH", "ELU", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR",
)  # fmt: skip
"""Operators whose output has the channels of their first input."""
PAIRS = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM")


@dataclass(frozen=True)
class Place:
    """Where channels lie in a tensor: element (o * size + c) * inner + i along `axis` belongs to channel c."""

    axis: int
    outer: int = 1
    inner: int = 1


@dataclass
class Group:
    """Channels that go or stay together, in whichever tensors they are."""

    size: int
    """How many channels."""
    cuts: list[tuple[int, Place]] = field(default_factory=list)
    """Constants to cut, and where."""
    makers: list[tuple[int, int]] = field(default_factory=list)
    """Weights that compute the channels: (tensor, axis)."""
    values: list[tuple[int, Place]] = field(default_factory=list)
    """Activations that hold the channels, and where."""


class Channels:
    """Groups of a graph, found by walking it once; what a group's channels mean nothing for is left alone.

    Every constant has one reader (`separate`), or cutting it for one layer would cut it for another.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parent: dict[int, int] = {}
        self._place: dict[int, Place] = {}
        self._fixed: set[int] = set(graph.inputs) | set(graph.outputs)
        self._cuts: list[tuple[int, int, int]] = []
        """(activation whose channels they are, constant, axis)."""
        self._makers: list[tuple[int, int, int]] = []
        for op in graph.ops:
            self._walk(op)

    def groups(self) -> list[Group]:
        """Every group that may lose channels: some layer makes them, and nothing outside sees them."""
        fixed = {self._find(t) for t in self._fixed}
        found: dict[int, Group] = {}
        for tensor in self._parent:
            root = self._find(tensor)
            if root in fixed:
                continue
            place = self._at(tensor)
            size = self._graph.shape(tensor)[place.axis] // (place.outer * place.inner)
            found.setdefault(root, Group(size)).values.append((tensor, place))
        for tensor, constant, axis in self._cuts:
            if (root := self._find(tensor)) in found:
                place = self._at(tensor)
                found[root].cuts.append((constant, Place(axis, place.outer, place.inner)))
        for tensor, constant, axis in self._makers:
            if (root := self._find(tensor)) in found:
                found[root].makers.append((constant, axis))
        return [group for group in found.values() if group.makers and group.size > 1]

    def _find(self, tensor: int) -> int:
        while self._parent.setdefault(tensor, tensor) != tensor:
            tensor = self._parent[tensor]
        return tensor

    def _at(self, tensor: int) -> Place:
        """Where a tensor's channels are: along the last axis, unless it was moved or flattened."""
        return self._place.get(tensor, Place(max(len(self._graph.shape(tensor)) - 1, 0)))

    def _plain(self, tensor: int) -> bool:
        """Whether the channels are the last axis, each once."""
        return self._at(tensor) == Place(len(self._graph.shape(tensor)) - 1)

    def _join(self, one: int, other: int) -> None:
        self._parent[self._find(one)] = self._find(other)

    def _walk(self, op: Op) -> None:
        handled = {
            "CONV_2D": self._convolution, "DEPTHWISE_CONV_2D": self._depthwise, "FULLY_CONNECTED": self._dense,
            "RESHAPE": self._reshape, "MEAN": self._mean, "TRANSPOSE": self._transpose,
            **dict.fromkeys(SAME, self._same), **dict.fromkeys(PAIRS, self._pair),
        }.get(op.kind)  # fmt: skip
        if handled is None or not handled(op):
            self._fixed |= {t for t in (*op.inputs, *op.outputs) if t >= 0 and not self._graph.is_constant(t)}
        for tensor in self._fixed:
            self._find(tensor)

    def _convolution(self, op: Op) -> bool:
        graph, (source, weight), result = self._graph, op.inputs[:2], op.outputs[0]
        if not graph.is_constant(weight) or graph.shape(weight)[3] != graph.shape(source)[3]:
            return False
        if not self._plain(source):
            return False
        self._find(source)
        self._cuts.append((source, weight, 3))
        self._layer(op, result, weight, 0)
        return True

    def _dense(self, op: Op) -> bool:
        graph, (source, weight), result = self._graph, op.inputs[:2], op.outputs[0]
        if not graph.is_constant(weight) or graph.shape(source)[-1] != graph.shape(weight)[1]:
            return False
        self._find(source)
        self._cuts.append((source, weight, 1))
        self._layer(op, result, weight, 0)
        return True

    def _depthwise(self, op: Op) -> bool:
        graph, (source, weight), result = self._graph, op.inputs[:2], op.outputs[0]
        if not graph.is_constant(weight) or not self._plain(source):
            return False
        given, made = graph.shape(source)[3], graph.shape(result)[3]
        if given == made:
            self._join(source, result)
            self._cuts.append((result, weight, 3))
            self._bias(op, result)
            return True
        if given == 1:
            self._fixed.add(source)
            self._layer(op, result, weight, 3)
            return True
        return False

    def _layer(self, op: Op, result: int, weight: int, axis: int) -> None:
        self._find(result)
        self._cuts.append((result, weight, axis))
        self._makers.append((result, weight, axis))
        self._bias(op, result)

    def _bias(self, op: Op, result: int) -> None:
        if len(op.inputs) > 2 and op.inputs[2] >= 0:
            self._cuts.append((result, op.inputs[2], 0))

    def _same(self, op: Op) -> bool:
        source, result = op.inputs[0], op.outputs[0]
        self._join(source, result)
        self._place[result] = self._at(source)
        windows = "2D" in op.kind or op.kind.startswith(("PAD", "RESIZE"))
        return self._plain(source) or not windows

    def _mean(self, op: Op) -> bool:
        # Over spatial axes alone the last one stays.
        before, after = self._graph.shape(op.inputs[0]), self._graph.shape(op.outputs[0])
        if len(before) != 4 or math.prod(after) != before[0] * before[3] or not self._plain(op.inputs[0]):
            return False
        self._join(op.inputs[0], op.outputs[0])
        return after[-1] == before[-1]

    def _pair(self, op: Op) -> bool:
        graph, result = self._graph, op.outputs[0]
        for tensor in op.inputs[:2]:
            shape = graph.shape(tensor)
            if graph.is_constant(tensor):
                if math.prod(shape) == 1:
                    continue
                if shape[-1] != graph.shape(result)[-1]:
                    return False
                self._cuts.append((result, tensor, len(shape) - 1))
            elif not shape or shape[-1] != graph.shape(result)[-1] or not self._plain(tensor):
                return False
            else:
                self._join(tensor, result)
        return True

    def _reshape(self, op: Op) -> bool:
        source, result = op.inputs[0], op.outputs[0]
        before, after = self._graph.shape(source), self._graph.shape(result)
        if before[0] != 1 or len(after) != 2 or after[0] != 1:
            return False
        # (1, h, w, c) in a row: the channels repeat h * w times; (1, c, h, w): each fills h * w places.
        at = self._at(source)
        outer, inner = math.prod(before[: at.axis]), math.prod(before[at.axis + 1 :])
        self._join(source, result)
        self._place[result] = Place(1, outer * at.outer, inner * at.inner)
        return True

    def _transpose(self, op: Op) -> bool:
        source, order, result = op.inputs[0], op.inputs[1], op.outputs[0]
        if not self._graph.is_constant(order):
            return False
        at = self._at(source)
        self._join(source, result)
        self._place[result] = Place(_integers(self._graph, order).index(at.axis), at.outer, at.inner)
        return True


def separate(model: Any) -> None:
    """Give each reader of a constant a tensor of its own: converters share equal biases between layers."""
    graph = Graph(model)
    read: set[int] = set()
    for op, raw in zip(graph.ops, graph.subgraph.operators, strict=True):
        inputs = list(op.inputs)
        for position, tensor in enumerate(inputs):
            if tensor < 0 or not graph.is_constant(tensor):
                continue
            if tensor in read:
                other = copy.copy(graph.subgraph.tensors[tensor])
                inputs[position] = len(graph.subgraph.tensors)
                other.name = b"%s;%d" % (other.name or b"", inputs[position])
                graph.subgraph.tensors.append(other)
            read.add(tensor)
        raw.inputs = inputs


def cut(model: Any, group: Group, keep: list[int]) -> None:
    """Leave only the channels `keep` of a group in `model` (ModelT, changed in place)."""
    import numpy as np

    graph = Graph(model)
    tensors = graph.subgraph.tensors
    for constant, at in group.cuts:
        wanted = [
            (turn * group.size + channel) * at.inner + inside
            for turn in range(at.outer)
            for channel in keep
            for inside in range(at.inner)
        ]
        values = np.take(graph.values(constant), wanted, at.axis)
        tensors[constant].shape = list(values.shape)
        _replace(model, tensors[constant], values)
    for tensor, at in group.values:
        shape = list(graph.shape(tensor))
        shape[at.axis] = at.outer * len(keep) * at.inner
        tensors[tensor].shape = shape
        tensors[tensor].shapeSignature = None


def _integers(graph: Graph, tensor: int) -> list[int]:
    """The values of an int32 constant."""
    import numpy as np

    data = np.asarray(graph.model.buffers[graph.subgraph.tensors[tensor].buffer].data, np.uint8)
    values: list[int] = np.frombuffer(data.tobytes(), "<i4").tolist()
    return values


def _replace(model: Any, tensor: Any, values: Any) -> None:
    """Give the tensor a buffer of its own: another one may read the old."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1


def reshape_again(model: Any) -> None:
    """Write into each RESHAPE the shape that its output has now."""
    import numpy as np

    graph = Graph(model)
    for op in graph.ops:
        if op.kind != "RESHAPE":
            continue
        shape = np.array(graph.shape(op.outputs[0]), np.int32)
        options = graph.subgraph.operators[op.index].builtinOptions
        if options is not None and options.newShape is not None:
            options.newShape = shape.tolist()
        if len(op.inputs) > 1 and op.inputs[1] >= 0:
            _replace(model, graph.subgraph.tensors[op.inputs[1]], shape)
