"""ONNX models, with or without external data: recognised, checked before any framework, and inspected."""

from __future__ import annotations

from pathlib import Path

from ...targets.errors import SourceUnreadable
from ...targets.facts import IoFact, ModelFacts
from ..files.protobuf import Message, open_message
from ..source import Source
from .check import AGAIN, DOMAINS, GraphCheck
from .graph import Functions, Graph, Node, fed_inputs, read_graph, read_node

KIND = "onnx"

MIN_IR, MAX_IR, MIN_OPSET = 3, 14, 7
"""Oldest and newest file format, and the oldest ai.onnx opset, whose meaning is known here (onnx 1.23)."""

MAX_CALL_DEPTH = 16
"""Functions that call functions deeper than this are refused: runtimes inline them all."""


def recognises(path: Path) -> bool:
    """Whether the file is a ModelProto: an IR version and a graph, whatever the file's name is."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
        # A varint field 1 (ir_version) or the fields that a ModelProto may begin with; cheap, before mapping.
        if not head or (head[0] & 7, head[0] >> 3) not in ((0, 1), (2, 2), (2, 7), (2, 8)):
            return False
        with open_message(path) as model:
            return 0 < model.integer(1) < 1000 and len(model.spans(7)) == 1
    except (OSError, SourceUnreadable):
        return path.suffix.lower() == ".onnx"


def open(path: Path) -> Source:
    """The model at `path`, checked: versions, domains, tensors against their bytes, external files, graph.

    Raises `SourceUnreadable` naming file and field. Reads headers only, and executes nothing.
    """
    path = path.resolve()
    with open_message(path) as model:
        versions = _check_versions(model, path.name)
        graph = read_graph(_required(model.message(7, "graph"), path.name))
        functions = _read_functions(model, path.name)
        _check_calls(functions, path.name)
        check = GraphCheck(path, functions)
        for (_, name), (function, nodes) in functions.items():
            inside = _check_versions(function, path.name, in_function=True)
            results = tuple(IoFact(result, "", None) for result in function.texts(5))
            body = Graph(nodes, (), (), results, (), function)
            check.check(body, inside, f"{path.name}: function {name!r}", given=function.texts(4))
        _check_io(graph, path.name)
        check.check(graph, versions, f"{path.name}: graph")
        check.check_overlaps()
    return Source(KIND, path, tuple(sorted({path, *check.external})))


def inspect(source: Source, *, sequence: int = 128) -> ModelFacts:
    """Weights, inputs, outputs and operators from headers; `sequence` sizes free sequence dimensions."""
    from .facts import facts_of

    with open_message(source.path) as model:
        return facts_of(model, source.name, sequence)


def _required(message: Message | None, file: str) -> Message:
    if message is None:
        raise SourceUnreadable("the model has no graph", where=f"{file}: graph", mend=AGAIN)
    return message


def _check_versions(model: Message, file: str, *, in_function: bool = False) -> dict[str, int]:
    """Domains to opset versions of a model, or of a function in it."""
    ir = model.integer(1)
    if not in_function and not MIN_IR <= ir <= MAX_IR:
        mend = f"{MIN_IR} to {MAX_IR} are known: export with another version of onnx"
        raise SourceUnreadable(f"IR version {ir} is not known", where=f"{file}: ir_version", mend=mend)
    versions: dict[str, int] = {}
    for entry in model.messages(9 if in_function else 8, "opset_import"):
        domain, version = entry.text(1), entry.integer(2)
        domain = "" if domain == "ai.onnx" else domain
        if versions.setdefault(domain, version) != version:
            raise SourceUnreadable(f"two versions of {domain or 'ai.onnx'!r}", where=f"{file}: opset_import")
        low, high = (MIN_OPSET if domain == "" else 1), DOMAINS.get(domain)
        if high is not None and not low <= version <= high:
            raise SourceUnreadable(
                f"opset {version} of {domain or 'ai.onnx'} is not known",
                where=f"{file}: opset_import",
                mend=f"Export with an opset of {low} to {high}",
            )
    return versions


def _read_functions(model: Message, file: str) -> Functions:
    functions: dict[tuple[str, str], tuple[Message, tuple[Node, ...]]] = {}
    for message in model.messages(25, "function"):
        domain = message.text(10)
        key = ("" if domain == "ai.onnx" else domain, message.text(1))
        where = f"{file}: function {key[1]!r}"
        if key in functions and not message.text(13):
            raise SourceUnreadable("two functions have this name", where=where, mend=AGAIN)
        if key[0] == "":
            raise SourceUnreadable("a function replaces an operator of ai.onnx", where=where)
        functions[key] = (message, tuple(read_node(item) for item in message.messages(7, "node")))
    return functions


def _check_calls(functions: Functions, file: str) -> None:
    """Functions must not call themselves, and not nest deeper than `MAX_CALL_DEPTH`: inlining must end."""
    depth: dict[tuple[str, str], int] = {}

    def visit(key: tuple[str, str], callers: tuple[tuple[str, str], ...]) -> int:
        where = f"{file}: function {key[1]!r}"
        if key in callers or len(callers) > 10 * MAX_CALL_DEPTH:
            raise SourceUnreadable("the function calls itself, at once or through others", where=where)
        if key not in depth:
            called = {(node.domain, node.op) for node in functions[key][1]} & functions.keys()
            depth[key] = 1 + max((visit(inner, (*callers, key)) for inner in sorted(called)), default=0)
            if depth[key] > MAX_CALL_DEPTH:
                raise SourceUnreadable(f"calls nest deeper than {MAX_CALL_DEPTH}", where=where)
        return depth[key]

    for key in functions:
        visit(key, ())


def _check_io(graph: Graph, file: str) -> None:
    for field, values in (("input", fed_inputs(graph)), ("output", graph.outputs)):
        for value in values:
            if not value.name or not value.dtype:
                raise SourceUnreadable(
                    "it is no tensor of a known data type",
                    where=f"{file}: {field} {value.name!r}",
                    mend="Export with tensor inputs and outputs (scikit-learn: zipmap=False)",
                )
    if not graph.outputs:
        raise SourceUnreadable("the graph has no output", where=f"{file}: graph.output", mend=AGAIN)
