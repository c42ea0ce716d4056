"""An output of its own for each output: coremltools names an output by renaming the value behind it.

Where that value is an input, a weight, or another output as well, the rename would take the other's name, or
the program would have one output too few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram


def separate(program: ExportedProgram) -> ExportedProgram:
    """The program in which no two outputs, and no input and output, are the same value. Changes it in place."""
    import torch

    graph = program.graph_module.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    values = list(output.args[0])
    seen: set[torch.fx.Node] = set()
    for index, value in enumerate(values):
        if not isinstance(value, torch.fx.Node):
            continue
        if value in seen or value.op != "call_function":
            with graph.inserting_before(output):
                copy = _copied(graph, value)
            values[index] = copy
            program.graph_signature.output_specs[index].arg.name = copy.name
        seen.add(value)
    output.args = (tuple(values),)
    program.graph_module.recompile()
    return program


def _copied(graph: torch.fx.Graph, value: torch.fx.Node) -> torch.fx.Node:
    import torch

    copy = graph.call_function(torch.ops.aten.clone.default, (value,))
    copy.meta = {"val": value.meta["val"]}
    return copy
