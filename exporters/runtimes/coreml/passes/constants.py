"""What depends on no input, computed now by torch and written as constants.

With fixed shapes a transformer's mask and position code (arange, ge, new_ones, where...) is constant. Left in
the graph it fails in coremltools operator by operator (integer and boolean arithmetic has few forms in MIL), and
would be computed again at each prediction. coremltools folds constants too, but only after it has translated
them, and in 32 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

LARGEST = 1 << 20
"""Elements of a constant that may be made out of smaller ones (a 1024 x 1024 mask)."""
FILLS = (
    "aten.new_ones",
    "aten.new_zeros",
    "aten.new_full",
    "aten.zeros_like",
    "aten.ones_like",
    "aten.full_like",
)
"""Operators that take only the shape and dtype of their input, which are known even where its values are not."""
LARGEST_FILL = 1 << 12
"""Elements of a filled tensor that is folded all the same: larger ones are better made by the device."""
NAME = "folded_"


def fold(program: ExportedProgram) -> ExportedProgram:
    """The program with constant tensors as attributes (`get_attr` nodes). Changes it in place.

    Only values up to the size of what they are made of, or `LARGEST` elements, are folded; random operators
    and operators on symbolic shapes are not.
    """
    import torch

    graph = program.graph_module.graph
    values: dict[Any, Any] = _parameters(program)
    weights = set(values)
    with torch.no_grad():
        for node in graph.nodes:
            if node.op == "get_attr":
                values[node] = getattr(program.graph_module, str(node.target), None)
            elif node.op == "call_function" and _is_fill(node):
                values[node] = _filled(node)
            elif node.op == "call_function" and _foldable(node, values):
                values[node] = _computed(node, values)
    made = [node for node in values if node not in weights and node.op == "call_function"]
    for index, node in enumerate(made):
        if isinstance(values[node], torch.Tensor) and any(user not in values for user in node.users):
            _replace(program, node, values[node], f"{NAME}{index}")
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def _parameters(program: ExportedProgram) -> dict[Any, Any]:
    """The placeholders of weights and constants that nothing writes to, with their tensors."""
    signature, found = program.graph_signature, {}
    written = set(signature.buffers_to_mutate.values())
    held = {**program.constants, **program.state_dict}
    targets = {
        spec.arg.name: spec.target
        for spec in signature.input_specs
        if spec.kind.name in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR") and spec.target not in written
    }
    for node in program.graph.nodes:
        if node.op == "placeholder" and targets.get(node.name) in held:
            found[node] = held[targets[node.name]]
    return found


def _foldable(node: torch.fx.Node, values: dict[Any, Any]) -> bool:
    import torch

    if any(argument not in values for argument in node.all_input_nodes):
        return False
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and (
        torch.Tag.nondeterministic_seeded in target.tags or target._schema.is_mutable
    ):
        return False
    result = node.meta.get("val")
    results = result if isinstance(result, (tuple, list)) else (result,)
    if not all(isinstance(each, torch.Tensor) for each in results):
        return False
    sizes = [size for each in results for size in each.shape]
    if not all(isinstance(size, int) for size in sizes):
        return False
    known = [values[argument] for argument in node.all_input_nodes]
    given = sum(tensor.numel() for tensor in known if isinstance(tensor, torch.Tensor))
    return bool(sum(each.numel() for each in results) <= max(LARGEST, given))


def _is_fill(node: torch.fx.Node) -> bool:
    if str(node.target).rpartition(".")[0] not in FILLS or len(node.all_input_nodes) != 1:
        return False
    given, result = node.all_input_nodes[0].meta["val"], node.meta["val"]
    if not all(isinstance(size, int) for size in (*given.shape, *result.shape)):
        return False
    return bool(result.numel() <= LARGEST_FILL)


def _filled(node: torch.fx.Node) -> torch.Tensor:
    import torch

    fake = node.args[0].meta["val"]
    like = torch.empty(1, dtype=fake.dtype).expand(fake.shape)
    return node.target(like, *node.args[1:], **node.kwargs)


def _computed(node: torch.fx.Node, values: dict[Any, Any]) -> Any:
    import torch

    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda argument: values[argument])
    return node.target(*args, **kwargs)


def _replace(program: ExportedProgram, node: torch.fx.Node, value: torch.Tensor, name: str) -> None:
    module = program.graph_module
    module.register_buffer(name, value.detach().contiguous(), persistent=False)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta = {"val": node.meta["val"], "stack_trace": node.meta.get("stack_trace")}
    node.replace_all_uses_with(constant)
