"""Arguments that torch leaves out of a node because they are the schema's defaults, written into it.

coremltools reads an exported node by position and wants some optional arguments to be there: `max_pool2d(x, 2)`
fails with "got 2 input(s), expected minimum 3". And where it takes a default of its own, an empty stride of a
pooling (which means the kernel's size) is read as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

POOLINGS = (
    "aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.max_pool2d_with_indices",
    "aten.max_pool3d_with_indices", "aten.max_pool1d_with_indices", "aten.avg_pool1d", "aten.avg_pool2d",
    "aten.avg_pool3d",
)  # fmt: skip
"""Poolings: their stride is the kernel where it is left out."""
KERNEL, STRIDE = 1, 2


def write(program: ExportedProgram) -> ExportedProgram:
    """The program whose poolings have all their arguments in place. Changes it in place."""
    for node in program.graph_module.graph.nodes:
        if node.op == "call_function" and str(node.target).rpartition(".")[0] in POOLINGS:
            _complete(node)
    program.graph_module.recompile()
    return program


def _complete(node: torch.fx.Node) -> None:
    schema = node.target._schema
    arguments = [argument for argument in schema.arguments if not argument.kwarg_only]
    given: list[Any] = [
        node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        for index, argument in enumerate(arguments)
    ]
    if given[STRIDE] is None or not list(given[STRIDE]):
        given[STRIDE] = given[KERNEL]
    while given and given[-1] is None:  # divisor_override: None stands for "not there"
        given.pop()
    node.args = tuple(given)
    node.kwargs = {}
