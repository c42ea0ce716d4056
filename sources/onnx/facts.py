"""ModelFacts of an ONNX model: shapes from the file where it gives them, from onnx's inference where not."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

from ...targets.facts import IoFact, ModelFacts, OpFact, PeakFact, TensorFact
from .. import flops, peaks
from ..files.protobuf import VARINT, Message
from .graph import SMALL, Graph, Node, Tensor, fed_inputs, in_order, read_graph, walk
from .operators import PASSES_WEIGHTS, VIEWS, op_class, operations

Shape = tuple[int, ...]

FREE_IMAGE = 224
FREE_LENGTH = 16000
"""Assumed height and width where an image model leaves them free."""


def facts_of(model: Message, name: str, sequence: int) -> ModelFacts:
    """The facts of a checked ModelProto at batch 1."""
    message = model.message(7, "graph")
    if message is None:
        raise model.error("the model has no graph", 7)
    graph = read_graph(message)
    graph = replace(graph, nodes=in_order(graph.nodes) or graph.nodes)
    assumed = assume(fed_inputs(graph), sequence)
    shapes, complete = given_shapes(graph, assumed)
    notes: list[str] = []
    if not complete:
        try:
            shapes = {**inferred_shapes(model, assumed), **shapes}
        except ImportError:
            notes.append("onnx is not installed, so shapes that the file does not give stay unknown.")
        except Exception as error:
            # onnx raises errors of its own C++ classes for graphs that it cannot type.
            notes.append(f"onnx could not infer shapes: {str(error).splitlines()[0][:200]}")
    if any(size != 1 for size in assumed.values()) or len(assumed) > 1:
        notes.append(f"Free dimensions were taken as {dict(assumed)}.")
    ops, most, peak = measure(graph, shapes)
    producer = f"{model.text(2)} {model.text(3)}".strip()
    return ModelFacts(
        kind="onnx",
        name=name,
        architecture=producer or graph.message.text(2) or "ONNX",
        tensors=weights(graph),
        inputs=fed_inputs(graph),
        outputs=graph.outputs,
        ops=ops,
        peak_activations=most,
        peak=peak,
        assumed=assumed,
        notes=tuple(notes),
    )


def weights(graph: Graph) -> tuple[TensorFact, ...]:
    """Stored weights: initializers and constants of all graphs, without the small integer shapes and axes."""
    found: list[TensorFact] = []
    for part in walk(graph):
        constants = (tensor for node in part.nodes if node.op == "Constant" for tensor in node.tensors())
        # A constant in a node has no name of its own; small ones are numbers of the graph, not weights.
        large = (tensor for tensor in constants if tensor.elements > SMALL)
        for tensor in (*part.initializers, *large):
            if tensor.dtype in ("int64", "int32", "bool") and tensor.elements <= SMALL:
                continue
            found.append(TensorFact(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes))
    return tuple(found)


def assume(inputs: Sequence[IoFact], sequence: int) -> dict[str, int]:
    """Sizes for free dimensions, by symbol, or by "input[axis]" where a dimension has no name.

    A name with "seq" gives `sequence`, and so does axis 1 of an integer input of rank 2 (token ids); free
    height and width of a rank-4 float input are taken as `FREE_IMAGE`, and the last axis of a rank-3 one, where
    its channels are fixed, as `FREE_LENGTH` (a second of sound); every other one is 1.
    """
    assumed: dict[str, int] = {}
    for value in inputs:
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, int):
                continue
            size = 1
            tokens = value.dtype in ("int64", "int32") and len(value.shape or ()) == 2 and axis == 1
            if (dim and "seq" in dim.lower()) or tokens:
                size = sequence
            elif axis >= 2 and len(value.shape or ()) == 4 and value.dtype.startswith("float"):
                size = FREE_IMAGE
            elif axis == 2 and value.dtype.startswith("float") and isinstance((value.shape or ())[1], int):
                size = FREE_LENGTH
            assumed.setdefault(dim or f"{value.name}[{axis}]", size)
    return assumed


def given_shapes(graph: Graph, assumed: Mapping[str, int]) -> tuple[dict[str, Shape], bool]:
    """Shapes that the file itself gives, with free dimensions filled in, and whether no value lacks one."""
    shapes: dict[str, Shape] = {tensor.name: tensor.shape for tensor in graph.initializers}
    for value in (*graph.values, *graph.outputs, *graph.inputs):
        if value.shape is None:
            continue
        sizes = [_size(value.name, axis, dim, assumed) for axis, dim in enumerate(value.shape)]
        known = tuple(size for size in sizes if size is not None)
        if len(known) == len(sizes):
            shapes[value.name] = known
    made = {name for node in graph.nodes for name in node.outputs if name}
    return shapes, made <= shapes.keys()


def _size(name: str, axis: int, dim: int | str | None, assumed: Mapping[str, int]) -> int | None:
    if isinstance(dim, int):
        return dim
    if dim is None:
        return assumed.get(f"{name}[{axis}]")
    size = assumed[dim] if dim in assumed else evaluate(dim, assumed)
    # What was assumed may be shorter than a kernel: then the size is unknown, and not below nothing.
    return size if size is not None and size >= 0 else None


def evaluate(expression: str, sizes: Mapping[str, int]) -> int | None:
    """A symbolic dimension as torch writes it, "Min(512, sequence)" or "2*s0 + 1"; None when it is no such."""
    if len(expression) > 200:
        return None
    try:
        return _evaluate(ast.parse(expression, mode="eval").body, sizes)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name) and node.id in sizes:
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        values = [_evaluate(argument, sizes) for argument in node.args]
        if node.func.id in ("Min", "Max"):
            return min(values) if node.func.id == "Min" else max(values)
    raise ValueError("not a dimension")


_ARITHMETIC: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def inferred_shapes(model: Message, assumed: Mapping[str, int]) -> dict[str, Shape]:
    """Shapes of all values by onnx's inference, on a copy of the model without its weights."""
    import onnx

    copy = onnx.load_model_from_string(without_weights(model))
    for value in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                continue
            size = _size(value.name, axis, dim.dim_param or None, assumed)
            if size is not None:
                dim.dim_value = size
            else:
                dim.ClearField("dim_param")
    result = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    shapes: dict[str, Shape] = {}
    for value in (*result.graph.input, *result.graph.output, *result.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(
            dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims
        ):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def without_weights(model: Message) -> bytes:
    """The model's bytes with every large initializer reduced to its name, dtype and dimensions."""
    graph = model.message(7, "graph")
    assert graph is not None
    body = b"".join(_copy(graph, number) for number in graph.index if number != 5)
    for tensor in graph.messages(5, "initializer"):
        # Values of small integer tensors are shapes, which inference computes with.
        keep = tensor.nbytes <= 16 * SMALL and tensor.integer(14) != 1
        header = b"".join(_copy(tensor, number) for number in tensor.index if keep or number in (1, 2, 8))
        body += _field(5, header)
    rest = b"".join(_copy(model, number) for number in model.index if number != 7)
    return rest + _field(7, body)


def _copy(message: Message, number: int) -> bytes:
    parts = []
    for wire, first, last in message.index[number]:
        if wire == VARINT:
            parts.append(_varint(number << 3) + _varint(first))
        elif wire == 2:
            parts.append(_field(number, bytes(message.buffer[first:last])))
        else:
            parts.append(_varint(number << 3 | wire) + first.to_bytes(4 if wire == 5 else 8, "little"))
    return b"".join(parts)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def measure(
    graph: Graph, shapes: Mapping[str, Shape]
) -> tuple[tuple[OpFact, ...], int | None, PeakFact | None]:
    """Every operator's cost, and the peak of live activations (None when a shape is unknown)."""
    stored: dict[str, int] = {tensor.name: tensor.elements for tensor in graph.initializers}
    ops: list[OpFact] = []
    steps: list[flops.Step] = []
    complete = True
    for node in graph.nodes:
        if node.op == "Constant" or (
            node.op in PASSES_WEIGHTS and node.inputs and all(name in stored for name in node.inputs if name)
        ):
            size = stored.get(node.inputs[0], 0) if node.inputs else _constant_size(node)
            stored.update(dict.fromkeys(node.outputs, size))
            continue
        ops.append(_op(node, shapes, stored))
        sizes = {name: prod(shapes[name]) for name in node.outputs if name in shapes}
        complete = complete and all(name in shapes for name in node.outputs if name)
        op = ops[-1]
        steps.append(flops.Step(node.inputs, sizes, node.op in VIEWS, op.name, op.kind, op.op_class))
    inputs = {value.name: prod(shapes[value.name]) for value in fed_inputs(graph) if value.name in shapes}
    if not complete or len(inputs) < len(fed_inputs(graph)):
        return tuple(ops), None, None
    outputs = [value.name for value in graph.outputs]
    return tuple(ops), flops.liveness(steps, inputs, outputs), peaks.find(steps, inputs, outputs)


def _constant_size(node: Node) -> int:
    tensors: tuple[Tensor, ...] = tuple(node.tensors())
    return tensors[0].elements if tensors else 1


def _op(node: Node, shapes: Mapping[str, Shape], stored: Mapping[str, int]) -> OpFact:
    inputs = [shapes.get(name) for name in node.inputs]
    outputs = [shapes.get(name) for name in node.outputs]
    kind = op_class(node, [name in stored for name in node.inputs])
    if kind == "conv" and node.op != "ConvTranspose" and inputs and inputs[0] and len(inputs[0]) > 2:
        kind = flops.conv_class(node.integer("group", 1), inputs[0][1])
    return OpFact(
        name=node.label,
        kind=f"{node.domain}::{node.op}" if node.domain else node.op,
        op_class=kind,
        flops=operations(node, kind, inputs, outputs),
        weights=sum(stored.get(name, 0) for name in node.inputs),
        activations=sum(
            prod(shapes[name])
            for name in (*node.inputs, *node.outputs)
            if name in shapes and name not in stored
        ),
    )
