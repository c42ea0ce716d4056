"""An ONNX model's parts as plain values, read from the protobuf without onnx: nodes, tensors, inputs.

Field numbers are those of onnx.proto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ...targets.errors import SourceUnreadable
from ...targets.facts import DTYPE_BITS, Dim, IoFact
from ..files.protobuf import Message

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
    16: "bfloat16", 17: "float8_e4m3", 19: "float8_e5m2", 21: "uint4", 22: "int4", 26: "int2",
}  # fmt: skip
"""TensorProto.DataType to modelport's names; the numbers left out (fnuz, fp4, e8m0) go to no target."""

FIELDS = {"float": 4, "int32": 5, "string": 6, "int64": 7, "double": 10, "uint64": 11}
"""TensorProto's typed data fields."""

_STORED_IN = {
    "float32": ("float", 1), "complex64": ("float", 2), "float64": ("double", 1), "complex128": ("double", 2),
    "int64": ("int64", 1), "uint64": ("uint64", 1), "uint32": ("uint64", 1), "string": ("string", 1),
}  # fmt: skip
"""The typed field that holds a dtype and its values per element; all others use int32_data."""

MAX_RANK = 64
SMALL = 64
"""Integer tensors of up to this many elements are taken for shapes and axes, and read."""


@dataclass(frozen=True)
class Tensor:
    """One TensorProto: header only; `nbytes` is what dims × dtype ask for."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    message: Message

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def external(self) -> Mapping[str, str] | None:
        """The external_data entries when the bytes lie in another file, else None."""
        if self.message.integer(14) != 1:
            return None
        return {entry.text(1): entry.text(2) for entry in self.message.messages(13, "external_data")}

    def integers(self) -> tuple[int, ...] | None:
        """The values of a small int64 or int32 tensor inside the file; None for all others."""
        if self.dtype not in ("int64", "int32") or self.elements > SMALL or self.message.integer(14) == 1:
            return None
        raw = self.message.raw(9)
        if raw:
            code = f"<{self.elements}{'q' if self.dtype == 'int64' else 'i'}"
            return struct.unpack(code, raw) if len(raw) == struct.calcsize(code) else None
        return tuple(self.message.integers(FIELDS[self.dtype]))


@dataclass(frozen=True)
class Node:
    """One NodeProto. `attributes` are AttributeProtos by name."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Message]
    message: Message

    @property
    def label(self) -> str:
        """The node's name, or its first output's where it has none."""
        return self.name or next(iter(self.outputs), "")

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return self.attributes[name].integer(3) if name in self.attributes else default

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers; empty when absent."""
        return tuple(self.attributes[name].integers(8)) if name in self.attributes else ()

    def string(self, name: str) -> str:
        """A string attribute; empty when absent."""
        return self.attributes[name].text(4) if name in self.attributes else ""

    def tensors(self) -> Iterator[Tensor]:
        """Tensors held in attributes, as a Constant's value."""
        for name, attribute in self.attributes.items():
            for message in (*attribute.messages(5, "t"), *attribute.messages(10, "tensors")):
                yield read_tensor(message, f"{self.op} {self.label!r} attribute {name!r}")

    def graphs(self) -> Iterator[Message]:
        """Subgraphs held in attributes (If, Loop, Scan), as GraphProto messages."""
        for attribute in self.attributes.values():
            yield from attribute.messages(6, "g")
            yield from attribute.messages(11, "graphs")


@dataclass(frozen=True)
class Graph:
    """One GraphProto. `values` are the intermediate values whose shape the file gives."""

    nodes: tuple[Node, ...]
    initializers: tuple[Tensor, ...]
    inputs: tuple[IoFact, ...]
    """Those that the caller must feed come first in file order; initializers may be listed among them."""
    outputs: tuple[IoFact, ...]
    values: tuple[IoFact, ...]
    message: Message


Functions = Mapping[tuple[str, str], tuple[Message, tuple[Node, ...]]]
"""Model-local functions by (domain, name): the FunctionProto and its nodes."""


def read_tensor(message: Message, fallback: str) -> Tensor:
    """One TensorProto's header; refuses unknown dtypes, negative dimensions and absurd ranks."""
    name = message.text(8) or fallback
    shape = tuple(message.integers(1))
    where = f"{message.where} {name!r}"
    code = message.integer(2)
    if code not in DTYPES:
        raise SourceUnreadable(f"data type {code} is not known", where=where, mend="Known: " + _known())
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise SourceUnreadable(f"the dimensions {list(shape)[:8]} are not valid", where=where)
    return Tensor(name, DTYPES[code], shape, nbytes(DTYPES[code], shape), message)


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a dense tensor; below 8 bits an element, the last byte is filled up."""
    return int(-(-prod(shape) * DTYPE_BITS[dtype] // 8))


def typed_values(tensor: Tensor) -> tuple[str, int]:
    """The typed data field that holds this tensor, and how many values it must have."""
    field, each = _STORED_IN.get(tensor.dtype, ("int32", 1))
    if tensor.dtype in ("int4", "uint4", "int2"):
        return field, tensor.nbytes
    return field, tensor.elements * each


def read_node(message: Message) -> Node:
    """One NodeProto; refuses two attributes of one name."""
    attributes: dict[str, Message] = {}
    for attribute in message.messages(5, "attribute"):
        name = attribute.text(1)
        if name in attributes:
            raise message.error(f"two attributes are named {name!r}")
        attributes[name] = attribute
    domain = message.text(7)
    return Node(
        message.text(4),
        "" if domain == "ai.onnx" else domain,
        message.text(3),
        tuple(message.texts(1)),
        tuple(message.texts(2)),
        attributes,
        message,
    )


def read_value(message: Message) -> IoFact:
    """One ValueInfoProto of tensor type; `dtype` is empty where the file does not say or it is no tensor."""
    name = message.text(1)
    kind = message.message(2, "type")
    tensor = kind.message(1, "tensor_type") if kind else None
    if tensor is None:
        return IoFact(name, "", None)
    code = tensor.integer(1)
    if code and code not in DTYPES:
        raise SourceUnreadable(f"data type {code} is not known", where=f"{message.where} {name!r}")
    shape = tensor.message(2, "shape")
    if shape is None:
        return IoFact(name, DTYPES.get(code, ""), None)
    if len(shape.spans(1)) > MAX_RANK:
        raise SourceUnreadable(f"a rank of {len(shape.spans(1))}", where=f"{message.where} {name!r}")
    dims: list[Dim] = []
    for dim in shape.messages(1, "dim"):
        size = dim.integer(1, -1)
        if 1 in dim and size < 0:
            raise SourceUnreadable(f"the dimension {size} is not valid", where=f"{message.where} {name!r}")
        dims.append(size if 1 in dim else dim.text(2) or None)
    return IoFact(name, DTYPES.get(code, ""), tuple(dims))


def read_graph(message: Message) -> Graph:
    """One GraphProto with its nodes' and tensors' headers; subgraphs stay in their nodes' attributes."""
    tensors = (read_tensor(item, "") for item in message.messages(5, "initializer"))
    return Graph(
        tuple(read_node(item) for item in message.messages(1, "node")),
        tuple(tensors),
        tuple(read_value(item) for item in message.messages(11, "input")),
        tuple(read_value(item) for item in message.messages(12, "output")),
        tuple(read_value(item) for item in message.messages(13, "value_info")),
        message,
    )


def fed_inputs(graph: Graph) -> tuple[IoFact, ...]:
    """The inputs that a caller must give: those that no initializer fills (before IR 4 all were listed)."""
    filled = {tensor.name for tensor in graph.initializers}
    return tuple(value for value in graph.inputs if value.name not in filled)


def walk(graph: Graph) -> Iterator[Graph]:
    """The graph and all its subgraphs, outermost first."""
    yield graph
    for node in graph.nodes:
        for message in node.graphs():
            yield from walk(read_graph(message))


def in_order(nodes: Sequence[Node]) -> tuple[Node, ...] | None:
    """The nodes so that each stands after those whose results it reads, or None when they form a circle.

    The format asks for that order in the file, but ONNX Runtime's own quantizer does not keep it. Values that
    a node's subgraphs read count as its inputs.
    """
    maker = {name: at for at, node in enumerate(nodes) for name in node.outputs if name}
    readers: list[list[int]] = [[] for _ in nodes]
    waiting = [0] * len(nodes)
    for at, node in enumerate(nodes):
        needed = {maker[name] for name in (*node.inputs, *_captured(node)) if name in maker}
        waiting[at] = len(needed)
        for other in needed:
            readers[other].append(at)
    ready = [at for at in range(len(nodes)) if not waiting[at]]
    heapq.heapify(ready)
    ordered: list[Node] = []
    while ready:
        at = heapq.heappop(ready)
        ordered.append(nodes[at])
        for reader in readers[at]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    return tuple(ordered) if len(ordered) == len(nodes) else None


def _captured(node: Node) -> Iterator[str]:
    """Names that the node's subgraphs read, their own ones included (which no outer node makes)."""
    for message in node.graphs():
        for part in walk(read_graph(message)):
            for inner in part.nodes:
                yield from inner.inputs
            yield from (value.name for value in part.outputs)


def _known() -> str:
    return ", ".join(sorted(DTYPES.values()))
