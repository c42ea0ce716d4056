"""Assertions out of the graph: `_assert_tensor_metadata`, `_assert_scalar`, `sym_constrain_range` and the like.

torch.export writes them where a model checks or converts dtypes. They have no result, Core ML has no form of
them, and coremltools skips some and stops at others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.export import ExportedProgram

CHECKS = (
    "aten._assert_tensor_metadata", "aten._assert_scalar", "aten._assert_async", "aten._functional_assert_async",
    "aten._functional_assert_scalar", "aten.sym_constrain_range", "aten.sym_constrain_range_for_size", "_check",
)  # fmt: skip


def remove(program: ExportedProgram) -> ExportedProgram:
    """The program without assertions, and without what only they read. Changes it in place."""
    graph = program.graph_module.graph
    for node in reversed(graph.nodes):
        name = str(node.target).rpartition(".")[0] or getattr(node.target, "__name__", "")
        if node.op == "call_function" and not node.users and name in CHECKS:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program
