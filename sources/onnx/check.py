"""The pre-flight check of an ONNX graph: operators, order of values, constant folds, tensors' bytes."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from ...targets.errors import SourceUnreadable
from ..files.containment import contained
from .folds import Constant, check_folds
from .graph import FIELDS, Functions, Graph, Node, Tensor, in_order, read_graph, typed_values

MAX_OPSET = 28
"""Newest ai.onnx opset whose meaning is known here (onnx 1.23)."""

DOMAINS: Mapping[str, int] = {"": MAX_OPSET, "ai.onnx.ml": 5, "com.microsoft": 1}
"""Operator domains that a node may use, with their newest version; others need code that is not here."""

REFUSED_OPERATORS = frozenset({"PythonOp", "PythonOpGrad", "ATen", "EPContext"})
"""Operators that run code or load compiled blobs, whatever their domain."""

AGAIN = "Export the model again, or copy it again if it was cut short"


@dataclass
class GraphCheck:
    """Checks the graphs of one model; gathers the external files that its tensors lie in."""

    path: Path
    functions: Functions
    external: dict[Path, list[tuple[int, int, str]]] = field(default_factory=dict)
    """Each external file's spans: first byte, end, and the tensor's name."""

    def check(
        self,
        graph: Graph,
        versions: Mapping[str, int],
        where: str,
        *,
        given: Sequence[str] = (),
        visible: tuple[set[str], ...] = (),
        outer: MutableMapping[str, Constant] | None = None,
    ) -> None:
        """Check one graph and its subgraphs; raises `SourceUnreadable` at the first fault.

        `given` names values that a function's caller passes, `visible` and `outer` the values and the
        constants of the graphs around a subgraph.
        """
        if graph.message.spans(15):
            raise SourceUnreadable(
                "sparse initializers are not supported", where=where, mend="Make them dense"
            )
        defined = set(given)
        defined.update(_unique([value.name for value in graph.inputs], f"{where}: input"))
        defined.update(_unique([tensor.name for tensor in graph.initializers], f"{where}: initializer"))
        for tensor in graph.initializers:
            self._check_tensor(tensor)
        made = _unique(
            [name for node in graph.nodes for name in node.outputs if name], f"{where}: node output"
        )
        scopes = (*visible, defined)
        both = next(iter(made & defined), None)
        if both is not None:
            raise SourceUnreadable(f"{both!r} is made a second time", where=where, mend=AGAIN)
        constants = check_folds(graph, {} if outer is None else outer, where)
        for node in graph.nodes:
            place = f"{where}: node {node.label!r}"
            self._check_operator(node, versions, place)
            for name in node.inputs:
                if name and name not in made and not _seen(name, scopes):
                    raise SourceUnreadable(
                        f"{node.op} reads {name!r}, which nothing makes", where=place, mend=AGAIN
                    )
            for tensor in node.tensors():
                self._check_tensor(tensor)
            for message in node.graphs():
                self.check(read_graph(message), versions, place, visible=(*scopes, made), outer=constants)
        if in_order(graph.nodes) is None:
            raise SourceUnreadable("the nodes form a circle", where=where, mend=AGAIN)
        for value in graph.outputs:
            if value.name not in made and not _seen(value.name, scopes):
                raise SourceUnreadable(
                    "nothing makes this value", where=f"{where}: output {value.name!r}", mend=AGAIN
                )

    def check_overlaps(self) -> None:
        """Two tensors may share the same bytes of an external file whole; a partial overlap is damage."""
        for file, spans in self.external.items():
            spans.sort()
            for (first, last, name), (start, end, other) in pairwise(spans):
                if start < last and (first, last) != (start, end):
                    raise SourceUnreadable(
                        f"it overlaps {name!r} in {file.name}",
                        where=f"{self.path.name}: tensor {other!r} external_data",
                        mend=AGAIN,
                    )

    def _check_operator(self, node: Node, versions: Mapping[str, int], where: str) -> None:
        if (node.domain, node.op) in self.functions:
            return
        if not node.op or node.domain not in DOMAINS or node.op in REFUSED_OPERATORS:
            name = f"{node.domain}::{node.op}" if node.domain else node.op
            raise SourceUnreadable(
                f"the operator {name!r} is not known",
                where=where,
                mend="Those of ai.onnx, ai.onnx.ml and com.microsoft are: export without custom ones",
            )
        if node.domain not in versions:
            raise SourceUnreadable(
                f"{node.op} is used, but opset_import has no {node.domain or 'ai.onnx'!r}",
                where=where,
                mend=AGAIN,
            )

    def _check_tensor(self, tensor: Tensor) -> None:
        """The tensor's bytes, wherever they lie, must be exactly what its dtype and dimensions ask for."""
        where = f"{self.path.name}: tensor {tensor.name!r}"
        message = tensor.message
        entries = tensor.external
        if message.integer(14) not in (0, 1):
            raise SourceUnreadable(f"data location {message.integer(14)} is not known", where=where)
        if entries is not None:
            self._check_external(tensor, entries)
            return
        field, values = typed_values(tensor)
        if 9 in message:
            first, last = message.spans(9)[-1]
            if last - first != tensor.nbytes or tensor.dtype == "string":
                raise SourceUnreadable(
                    f"{last - first:,} bytes where {_needs(tensor)}",
                    where=f"{where} raw_data",
                    mend=AGAIN,
                )
            return
        number = FIELDS[field]
        width = {"float": 4, "double": 8}.get(field)
        found = len(message.spans(number)) if field == "string" else message.count(number, width)
        if found != values:
            raise SourceUnreadable(
                f"{found:,} values where {tensor.dtype} {list(tensor.shape)} needs {values:,}",
                where=f"{where} {field}_data",
                mend=AGAIN,
            )

    def _check_external(self, tensor: Tensor, entries: Mapping[str, str]) -> None:
        where = f"{self.path.name}: tensor {tensor.name!r} external_data"
        file = contained(self.path.parent, entries.get("location", ""), where=where)
        size = file.stat().st_size
        numbers = {}
        for key in ("offset", "length"):
            text = entries.get(key, "0" if key == "offset" else str(tensor.nbytes))
            if not text.isascii() or not text.isdigit() or len(text) > 19:
                raise SourceUnreadable(f"{key} is {text[:40]!r}, no number of bytes", where=where, mend=AGAIN)
            numbers[key] = int(text)
        if numbers["length"] != tensor.nbytes or tensor.dtype == "string":
            raise SourceUnreadable(
                f"{numbers['length']:,} bytes where {_needs(tensor)}",
                where=where,
                mend=AGAIN,
            )
        end = numbers["offset"] + numbers["length"]
        if end > size:
            raise SourceUnreadable(
                f"bytes {numbers['offset']:,} to {end:,} of {file.name}, which has {size:,}",
                where=where,
                mend=AGAIN,
            )
        spans = self.external.setdefault(file, [])
        if tensor.nbytes:
            spans.append((numbers["offset"], end, tensor.name))


def _seen(name: str, scopes: tuple[set[str], ...]) -> bool:
    return any(name in scope for scope in scopes)


def _needs(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} needs {tensor.nbytes:,}"


def _unique(names: list[str], where: str) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SourceUnreadable(f"two of them are named {name!r}", where=where, mend=AGAIN)
        seen.add(name)
    return seen
