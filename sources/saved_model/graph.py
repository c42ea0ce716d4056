"""A SavedModel's program as plain values, read from the protobuf without TensorFlow: nodes, functions, signatures.

Field numbers are those of tensorflow/core/framework/{graph,node_def,function,attr_value,tensor}.proto and
tensorflow/core/protobuf/{saved_model,meta_graph}.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from ...targets.errors import SourceUnreadable
from ...targets.facts import DTYPE_BITS, IoFact
from ..files.protobuf import Message
from .variables import TF_DTYPES, read_shape

Shape = tuple[int, ...]
"""Sizes, -1 where a dimension is free."""

SMALL = 64
"""Integer constants of up to this many elements are taken for shapes and axes, and read."""

MAX_CONSTANT = 1 << 28
"""Largest constant that may be spelled out from a single repeated value, in elements."""

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})


@dataclass(frozen=True)
class Ref:
    """One data input: the node that makes it (or a function's argument), and which of its outputs."""

    node: str
    output: int = 0


@dataclass(frozen=True)
class Node:
    """One NodeDef of a graph or of a function's body."""

    name: str
    op: str
    inputs: tuple[Ref, ...]
    control: tuple[str, ...]
    message: Message

    @cached_property
    def attributes(self) -> Mapping[str, Message]:
        """AttrValues by name."""
        return read_map(self.message, 5, "attr")

    def dtype(self, name: str = "dtype") -> str:
        """A type attribute by modelport's name; empty when absent or unknown."""
        attribute = self.attributes.get(name)
        return TF_DTYPES.get(attribute.integer(6), "") if attribute else ""

    def shape(self, name: str = "shape") -> Shape | None:
        """A shape attribute; None when it is absent or of unknown rank."""
        attribute = self.attributes.get(name)
        return read_shape(attribute.message(7, "shape")) if attribute and 7 in attribute else None

    def text(self, name: str) -> str:
        """A string attribute; empty when absent."""
        attribute = self.attributes.get(name)
        return attribute.text(2) if attribute else ""

    def flag(self, name: str) -> bool:
        """A boolean attribute; False when absent."""
        attribute = self.attributes.get(name)
        return bool(attribute.integer(5)) if attribute else False

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers; empty when absent."""
        attribute = self.attributes.get(name)
        values = attribute.message(1, "list") if attribute else None
        return tuple(values.integers(3)) if values else ()

    def output_shapes(self) -> tuple[Shape | None, ...]:
        """The shapes that TensorFlow noted for the node's outputs; empty when it did not."""
        attribute = self.attributes.get("_output_shapes")
        values = attribute.message(1, "list") if attribute else None
        return tuple(read_shape(item) for item in values.messages(7, "shape")) if values else ()

    @cached_property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions that the node's attributes call."""
        names: list[str] = []
        for attribute in self.attributes.values():
            values = attribute.message(1, "list") if 1 in attribute else None
            found = attribute.messages(10, "func") if 10 in attribute else []
            for function in (*found, *(values.messages(9, "func") if values and 9 in values else ())):
                names.append(function.text(1))
        return tuple(names)

    def constant(self) -> Message | None:
        """The TensorProto of a Const node."""
        attribute = self.attributes.get("value")
        return attribute.message(8, "tensor") if attribute else None

    def constant_integers(self) -> tuple[int, ...] | None:
        """The values of a small integer Const; None for everything else."""
        tensor = self.constant() if self.op == "Const" else None
        if tensor is None:
            return None
        dtype, shape = TF_DTYPES.get(tensor.integer(1), ""), read_shape(tensor.message(2, "shape"))
        if dtype not in ("int32", "int64") or shape is None or not 0 <= prod(shape) <= SMALL:
            return None
        content, count = tensor.raw(4), prod(shape)
        if content:
            code = f"<{count}{'q' if dtype == 'int64' else 'i'}"
            return struct.unpack(code, content) if len(content) == struct.calcsize(code) else None
        values = tensor.integers(7 if dtype == "int32" else 10)
        # TensorFlow leaves trailing repeats of the last value out.
        last = values[-1:] or [0]
        return tuple((values + last * count)[:count])


@dataclass(frozen=True)
class Function:
    """One FunctionDef: argument names with their dtypes, body, and the value that each result returns."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    nodes: tuple[Node, ...]
    results: tuple[Ref, ...]


@dataclass(frozen=True)
class Signature:
    """One SignatureDef: the model's named inputs and outputs, and the graph's tensors behind them."""

    inputs: tuple[IoFact, ...]
    outputs: tuple[IoFact, ...]
    input_refs: tuple[Ref, ...]
    output_refs: tuple[Ref, ...]


@dataclass(frozen=True)
class Program:
    """One MetaGraphDef: graph, functions by name, signatures by name, names of asset files."""

    tags: tuple[str, ...]
    nodes: tuple[Node, ...]
    functions: Mapping[str, Function]
    signatures: Mapping[str, Signature]
    assets: tuple[str, ...]


def read_map(message: Message, number: int, name: str) -> dict[str, Message]:
    """A map field with string keys and message values."""
    found: dict[str, Message] = {}
    for entry in message.messages(number, name):
        value = entry.message(2, "value")
        if value is not None:
            found[entry.text(1)] = value
    return found


def read_program(meta: Message) -> Program:
    """One MetaGraphDef; its nodes' attributes stay unread until they are asked for."""
    info, graph = meta.message(1, "meta_info_def"), meta.message(2, "graph_def")
    if graph is None:
        raise meta.error("there is no graph", 2)
    library = graph.message(2, "library")
    functions = {}
    for message in library.messages(1, "function") if library else ():
        function = _read_function(message)
        if function.name in functions:
            raise message.error(f"two functions are named {function.name!r}")
        functions[function.name] = function
    return Program(
        tuple(info.texts(4)) if info else (),
        tuple(_read_node(item) for item in graph.messages(1, "node")),
        functions,
        {name: _read_signature(item, name) for name, item in read_map(meta, 5, "signature_def").items()},
        tuple(item.text(2) for item in meta.messages(6, "asset_file_def")),
    )


def _read_node(message: Message) -> Node:
    names = message.texts(3)
    data = tuple(read_ref(name) for name in names if not name.startswith("^"))
    control = tuple(name[1:] for name in names if name.startswith("^"))
    return Node(message.text(1), message.text(2), data, control, message)


def _read_function(message: Message) -> Function:
    signature = message.message(1, "signature")
    if signature is None:
        raise message.error("a function without signature")
    arguments = tuple(
        (item.text(1), TF_DTYPES.get(item.integer(3), "")) for item in signature.messages(2, "input_arg")
    )
    returned = {entry.text(1): entry.text(2) for entry in message.messages(4, "ret")}
    results = [returned.get(item.text(1), "") for item in signature.messages(3, "output_arg")]
    return Function(
        signature.text(1),
        arguments,
        tuple(_read_node(item) for item in message.messages(3, "node_def")),
        tuple(read_ref(name) for name in results),
    )


def read_ref(name: str) -> Ref:
    """ "node", "node:1" (graphs) or "node:output_arg:1" (functions).

    A function's form counts within one named output; every operator met here has its first output first.
    """
    node, *rest = name.split(":")
    last = rest[-1] if rest else "0"
    return Ref(node, int(last) if last.isascii() and last.isdigit() and len(last) < 9 else 0)


def _read_signature(message: Message, signature: str) -> Signature:
    """A signature; the loader's own ("__saved_model_init_op") name operators, which have no dtype."""
    inputs, outputs = (
        [(name, item) for name, item in read_map(message, number, field).items()]
        for number, field in ((1, "inputs"), (2, "outputs"))
    )
    served = not signature.startswith("__")
    return Signature(
        tuple(_read_io(name, item) for name, item in inputs if served),
        tuple(_read_io(name, item) for name, item in outputs if served),
        tuple(read_ref(item.text(1)) for _, item in inputs),
        tuple(read_ref(item.text(1)) for _, item in outputs),
    )


def _read_io(name: str, info: Message) -> IoFact:
    if 4 in info or 5 in info:
        raise SourceUnreadable(
            "sparse and ragged inputs or outputs are not supported",
            where=f"{info.where} {name!r}",
            mend="Export a signature of dense tensors",
        )
    code = info.integer(2)
    dtype = TF_DTYPES.get(code)
    if dtype is None:
        raise SourceUnreadable(f"data type {code} is not known", where=f"{info.where} {name!r}")
    shape = read_shape(info.message(3, "tensor_shape"))
    return IoFact(
        name, dtype, None if shape is None else tuple(size if size >= 0 else None for size in shape)
    )


def reached(program: Program, refs: Iterable[Ref]) -> list[Node]:
    """Every node that computing `refs` runs: by data, by control, and the whole body of each called function."""
    by_name = {node.name: node for node in program.nodes}
    waiting = [ref.node for ref in refs]
    seen: set[str] = set()
    called: list[str] = []
    found: list[Node] = []
    while waiting:
        name = waiting.pop()
        if name in seen or name not in by_name:
            continue
        seen.add(name)
        node = by_name[name]
        found.append(node)
        waiting.extend((*(ref.node for ref in node.inputs), *node.control))
        called.extend((*node.functions, node.op))
    entered: set[str] = set()
    while called:
        name = called.pop()
        if name in entered or name not in program.functions:
            continue
        entered.add(name)
        for node in program.functions[name].nodes:
            found.append(node)
            called.extend((*node.functions, node.op))
    return found


def variables_of(nodes: Iterable[Node]) -> list[Node]:
    """The nodes that are variables (not tables or other resources)."""
    return [node for node in nodes if node.op in VARIABLES]


def check_constant(node: Node, where: str) -> None:
    """A Const's bytes must be what dtype × shape ask for; a repeated value may not stand for gigabytes."""
    tensor = node.constant()
    if tensor is None:
        raise SourceUnreadable("a constant without value", where=where)
    code, shape = tensor.integer(1), read_shape(tensor.message(2, "shape"))
    dtype = TF_DTYPES.get(code)
    if dtype is None or shape is None or any(size < 0 for size in shape):
        raise SourceUnreadable(f"data type {code} or shape {shape} is not valid", where=f"{where} value")
    bits = DTYPE_BITS.get(dtype, 0)
    spans = tensor.spans(4)
    content = spans[-1][1] - spans[-1][0] if spans else 0
    if content and bits:
        needed = prod(shape) * int(max(bits, 8)) // 8
        if content != needed:
            fact = f"{content:,} bytes where {dtype} {list(shape)} needs {needed:,}"
            raise SourceUnreadable(fact, where=f"{where} tensor_content")
    elif prod(shape) > MAX_CONSTANT:
        fact = f"one value is repeated for the shape {list(shape)}, over {MAX_CONSTANT:,} elements"
        raise SourceUnreadable(fact, where=f"{where} value")
