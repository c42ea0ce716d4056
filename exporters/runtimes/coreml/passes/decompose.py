"""Operators that coremltools has no translation of, rewritten by torch's own decompositions.

An ExportedProgram must be decomposed in any case: only that makes in-place operators functional. With torch's
default table linear, layer_norm, gelu and attention would fall into pieces that Core ML fuses badly, with an
empty one `new_ones`, `__and__`, `where` with scalars and hundreds more are left over. So exactly the operators
that coremltools does not know are decomposed, whichever those are in the versions at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .known import is_known
from .rules import rules

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ROUNDS = 4
"""A decomposition may give operators that are unknown again; deeper nesting than this was not seen."""


def decompose(program: ExportedProgram, whole: frozenset[str] = frozenset()) -> ExportedProgram:
    """The program with unknown operators, and those named in `whole`, replaced by what they are made of."""
    default = _default_table()
    first = {op: rule for op, rule in default.items() if not is_known(op) or str(op) in whole}
    program = program.run_decompositions({**_all_rules(_targets(program), whole), **first})
    for _ in range(ROUNDS):
        rest = _all_rules({op for op in _targets(program) if not is_known(op)}, whole)
        rest = {op: rule for op, rule in rest.items() if op not in first}
        if not rest:
            break
        program = program.run_decompositions(rest)
    return program


def can_decompose(name: str) -> bool:
    """Whether torch has a decomposition of the operator, as in "aten.gelu.default"."""
    from torch._decomp import decomposition_table

    return any(str(op) == name for op in decomposition_table) or any(
        str(op) == name for op in _default_table()
    )


def _default_table() -> dict[Any, Callable[..., Any]]:
    import torch

    return {**dict(torch.export.default_decompositions().items()), **rules()}


def _all_rules(targets: set[Any], whole: frozenset[str]) -> dict[Any, Callable[..., Any]]:
    """Rules of torch's full table, beyond those of its default, for unknown operators of the graph."""
    from torch._decomp import decomposition_table

    ours = rules()
    return {
        op: decomposition_table[op]
        for op in targets
        if op in decomposition_table and op not in ours and (not is_known(op) or str(op) in whole)
    }


def _targets(program: ExportedProgram) -> set[Any]:
    return {node.target for node in program.graph.nodes if node.op == "call_function"}
