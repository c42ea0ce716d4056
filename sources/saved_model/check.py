"""The pre-flight check of a SavedModel's program: operators, files, calls, sizes, and variables that are stored."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ...targets.errors import SourceUnreadable
from .graph import MAX_CONSTANT, Node, Program, Ref, Signature, check_constant, reached, variables_of
from .operators import ALLOWED, CHECKPOINT
from .variables import Entry

FILE = "saved_model.pb"
AGAIN = "Export the model again, or copy the whole folder again"

MAX_SIGNATURES = 100
MAX_CALL_DEPTH = 32
"""Functions that call functions deeper than this are refused."""
MAX_UNFOLDED = 200_000
"""Nodes of a function with all its calls written out: TensorFlow does that, and calls can double at every level."""

_SHAPED_BY = {
    "Fill": 0, "BroadcastTo": 1, "RandomUniform": 0, "RandomStandardNormal": 0, "TruncatedNormal": 0,
    "StatelessRandomUniformV2": 0, "StatelessRandomNormalV2": 0,
}  # fmt: skip
"""Operators whose output shape is the value of an input, and which input."""


def check_program(program: Program) -> None:
    """Check one graph with its functions; raises `SourceUnreadable` naming operator and node."""
    with_files = {
        name
        for name, found in program.functions.items()
        if any(node.op in CHECKPOINT for node in found.nodes)
    }
    _check_calls(program)
    if len(program.signatures) > MAX_SIGNATURES:
        raise SourceUnreadable(f"{len(program.signatures)} signatures", where=f"{FILE}: signature_def")
    for name, signature in program.signatures.items():
        for node in reached(program, signature.output_refs):
            if node.op in CHECKPOINT:
                raise _reads_files(node.op, f"{FILE}: signature {name!r}: node {node.name!r}")
    _check_nodes(program.nodes, "graph", program, with_files, frozenset())
    for name, function in program.functions.items():
        arguments = frozenset(argument for argument, dtype in function.arguments if dtype == "string")
        _check_nodes(function.nodes, f"function {name!r}", program, with_files, arguments)
        if name in with_files and not arguments:
            raise _reads_files(name, f"{FILE}: function {name!r}")


def _check_nodes(
    nodes: tuple[Node, ...], place: str, program: Program, with_files: set[str], arguments: frozenset[str]
) -> None:
    """Operators of one graph or function body; `arguments` are its string arguments (the saver's path)."""
    by_name = {node.name: node for node in nodes}
    if len(by_name) < len(nodes):
        raise SourceUnreadable("two nodes have one name", where=f"{FILE}: {place}", mend=AGAIN)
    for node in nodes:
        where = f"{FILE}: {place}: node {node.name!r}"
        if node.op not in ALLOWED and node.op not in program.functions:
            raise SourceUnreadable(
                f"the operator {node.op!r} is not allowed",
                where=where,
                mend="Only operators that compute are: export without Python, file, parsing or custom operators",
            )
        for name in (*node.functions, *([node.op] if node.op in program.functions else [])):
            if name not in program.functions:
                raise SourceUnreadable(f"the function {name!r} is missing", where=where, mend=AGAIN)
            # Only the graph itself may call the saver, and only with the path that the loader feeds.
            if name in with_files and not (
                place == "graph" and _fed_path(node.inputs[:1], by_name, arguments)
            ):
                raise _reads_files(name, where)
        if node.op in CHECKPOINT:
            paths = node.inputs[: 2 if node.op == "MergeV2Checkpoints" else 1]
            if not paths or not all(_fed_path((path,), by_name, arguments) for path in paths):
                raise _reads_files(node.op, where)
        if node.op == "Const":
            check_constant(node, where)
        _check_size(node, by_name, where)


def _reads_files(what: str, where: str) -> SourceUnreadable:
    return SourceUnreadable(
        f"{what!r} reads or writes files that the model names itself",
        where=where,
        mend="Only the saver may, at the path that the loader gives: do not load this model",
    )


def _fed_path(refs: tuple[Ref, ...], nodes: Mapping[str, Node], arguments: frozenset[str]) -> bool:
    """Whether a file name is made of a path from outside: a placeholder or a string argument.

    The saver joins pieces of its own ("_temp/part", shard numbers) to that path; none may lead elsewhere.
    """
    waiting = [ref.node for ref in refs]
    seen: set[str] = set()
    fed = False
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        node = nodes.get(name)
        if node is None:
            fed = fed or name in arguments
            continue
        fed = fed or node.op in ("Placeholder", "PlaceholderWithDefault")
        if node.op == "Const":
            tensor = node.constant()
            texts = tensor.texts(8) if tensor else []
            if any(".." in text or (text.startswith("/") and text != "/part") for text in texts):
                return False
        waiting.extend(ref.node for ref in node.inputs)
    return fed


def _check_size(node: Node, by_name: Mapping[str, Node], where: str) -> None:
    at = _SHAPED_BY.get(node.op)
    if at is None or len(node.inputs) <= at:
        return
    maker = by_name.get(node.inputs[at].node)
    sizes = maker.constant_integers() if maker else None
    if sizes and (prod(sizes) > MAX_CONSTANT or min(sizes) < 0):
        fact = f"{node.op} makes a tensor of shape {list(sizes)}, over {MAX_CONSTANT:,} elements"
        raise SourceUnreadable(fact, where=where)


def _check_calls(program: Program) -> None:
    """Functions must not call themselves, nest too deeply, or unfold to more nodes than `MAX_UNFOLDED`."""
    known: dict[str, tuple[int, int]] = {}

    def visit(name: str, callers: tuple[str, ...]) -> tuple[int, int]:
        """Unfolded size and depth of a function."""
        where = f"{FILE}: function {name!r}"
        if name in callers or len(callers) > 10 * MAX_CALL_DEPTH:
            raise SourceUnreadable("the function calls itself, at once or through others", where=where)
        if name not in known:
            nodes = program.functions[name].nodes
            calls = [
                inner for node in nodes for inner in (*node.functions, node.op) if inner in program.functions
            ]
            found = {inner: visit(inner, (*callers, name)) for inner in sorted(set(calls))}
            size = len(nodes) + sum(found[inner][0] for inner in calls)
            depth = 1 + max((deep for _, deep in found.values()), default=0)
            known[name] = size, depth
            if depth > MAX_CALL_DEPTH:
                raise SourceUnreadable(f"calls nest deeper than {MAX_CALL_DEPTH}", where=where)
            if size > MAX_UNFOLDED:
                raise SourceUnreadable(f"its calls unfold to over {MAX_UNFOLDED:,} operators", where=where)
        return known[name]

    for name in program.functions:
        visit(name, ())


def check_variables(program: Program, signature: Signature, entries: Mapping[str, Entry]) -> None:
    """Every variable of a signature must be stored with its dtype and shape, or the loader would invent it."""
    stored = {(entry.dtype, entry.shape) for entry in entries.values()}
    for node in variables_of(reached(program, signature.output_refs)):
        shape = node.shape()
        if shape is None or any(size < 0 for size in shape) or (node.dtype(), shape) in stored:
            continue
        raise SourceUnreadable(
            f"{node.dtype()} {list(shape)} is stored nowhere",
            where=f"variables.index: variable {node.text('shared_name') or node.name!r}",
            mend=AGAIN,
        )
