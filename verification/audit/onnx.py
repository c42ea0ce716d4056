"""Counts an ONNX file: weights by stored dtype, multiply-accumulates by the dtype that ONNX Runtime computes in.

Weights are the stored tensors of more than one element that operators compute with, each counted once.
Quantization parameters (scales and zero points) are no weights and are left out, and so are shapes, axes
and other integers; int32 biases count as int32. Multiply-accumulates are those at batch 1 and sequence 128.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...sources.files.protobuf import Message, open_message
from ...sources.onnx import facts as onnx_facts
from ...sources.onnx.graph import Graph, Node, Tensor, fed_inputs, in_order, read_graph, walk
from ...sources.onnx.operators import op_class, operations
from ...targets.errors import SourceUnreadable
from . import Audit

SEQUENCE = 128

PARAMETERS: Mapping[str, tuple[int, ...]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "MatMulNBits": (2, 3, 4),
    "GatherBlockQuantized": (2, 3),
}
"""Inputs that carry scales, zero points and group indices, by operator."""

INTEGER_KERNELS = frozenset(
    {"MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat",
     "DynamicQuantizeMatMul", "QGemm"}
)  # fmt: skip
PACKED = frozenset({"MatMulNBits", "GatherBlockQuantized"})
"""Operators whose weight holds several narrow integers a byte, as many bits each as attribute `bits` says."""

HANDS_ON = frozenset({"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear"})
COMPUTING = frozenset({"conv", "depthwise", "gemm", "matmul", "recurrent"})
NARROW = frozenset({"int8", "uint8", "int4", "uint4", "int16", "uint16"})
FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})


@dataclass(frozen=True)
class Wiring:
    """Who makes and who reads each value, and what is stored."""

    stored: Mapping[str, Tensor]
    made: Mapping[str, Node]
    read: Mapping[str, tuple[Node, ...]]
    kinds: Mapping[str, str]
    """Dtypes of values, as far as the file gives them."""

    def origin(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The value that `name` was handed on from, and the operators on the way, nearest first."""
        way: list[str] = []
        while name not in self.stored and name in self.made and self.made[name].op in HANDS_ON:
            way.append(self.made[name].op)
            name = self.made[name].inputs[0]
        return name, tuple(way)


def count(
    path: Path, computed: Callable[[Node, Wiring], str] | None = None, *, products_only: bool = False
) -> Audit:
    """Count the file at `path`; external data is counted by its headers and never read.

    `computed` tells the dtype that a runtime multiplies in (ONNX Runtime's, otherwise). With
    `products_only`, tables that rows are looked up in are kept apart from the weights, and float operators are those
    that multiply in float, not those with a float bias.
    """
    computed = computed or _compute_dtype
    with open_message(path) as model:
        message = model.message(7, "graph")
        if message is None:
            raise SourceUnreadable("the model has no graph", where=str(path))
        graph = read_graph(message)
        graph = replace(graph, nodes=in_order(graph.nodes) or graph.nodes)
        shapes = _shapes(model, graph)
        wiring = _wire(graph)
        weights = _weights(graph, wiring)
        macs: Counter[str] = Counter()
        left: list[tuple[int, int, str]] = []
        for node in graph.nodes:
            constant = [wiring.origin(name)[0] in wiring.stored for name in node.inputs]
            if all(constant) and node.op in HANDS_ON:
                continue
            kind = op_class(node, constant)
            amount = 0
            if kind in COMPUTING:
                amount = _macs(node, kind, shapes)
                dtype = computed(node, wiring)
                macs[dtype] += amount
                amount = amount if dtype in FLOATS else 0
            floating = _float_bytes(node, wiring, weights)
            if amount or (floating and not products_only and kind in COMPUTING | {"embedding"}):
                left.append((-amount, -floating, f"{_kind(node)} {node.label!r}"))
        stored_by, looked_up = Counter[str](), Counter[str]()
        for name, (dtype, size) in weights.items():
            stored_by[dtype] += size
            if products_only and all(node.op == "Gather" for node in wiring.read.get(name, ())):
                looked_up[dtype] += size
        return Audit(
            weight_bytes=dict(sorted(stored_by.items())),
            macs=dict(sorted(macs.items())),
            operators=dict(sorted(Counter(_kind(node) for node in graph.nodes).items())),
            float_ops=tuple(name for _, _, name in sorted(left)),
            file_bytes=sum(file.stat().st_size for file in _files(path, graph)),
            apart=dict(sorted(looked_up.items())),
        )


def _kind(node: Node) -> str:
    return f"{node.domain}::{node.op}" if node.domain else node.op


def _shapes(model: Message, graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes at batch 1: the file's own, and where it lacks some, those that onnx infers."""
    assumed = onnx_facts.assume(fed_inputs(graph), SEQUENCE)
    shapes, complete = onnx_facts.given_shapes(graph, assumed)
    if complete:
        return shapes
    try:
        return {**onnx_facts.inferred_shapes(model, assumed), **shapes}
    except Exception:  # onnx raises errors of its own C++ classes for operators that it does not know
        return shapes


def _wire(graph: Graph) -> Wiring:
    stored: dict[str, Tensor] = {}
    made: dict[str, Node] = {}
    read: dict[str, list[Node]] = {}
    for part in walk(graph):
        stored.update((tensor.name, tensor) for tensor in part.initializers)
        for node in part.nodes:
            constants = list(node.tensors()) if node.op == "Constant" else []
            if constants:
                stored[node.outputs[0]] = replace(constants[0], name=node.outputs[0])
                continue
            made.update((name, node) for name in node.outputs)
            for name in dict.fromkeys(node.inputs):
                read.setdefault(name, []).append(node)
    values = (*graph.values, *graph.inputs, *graph.outputs)
    kinds = {value.name: value.dtype for value in values}
    return Wiring(stored, made, {name: tuple(nodes) for name, nodes in read.items()}, kinds)


def _weights(graph: Graph, wiring: Wiring) -> dict[str, tuple[str, int]]:
    """Dtype and bytes of every stored tensor that is a weight, by name."""
    found: dict[str, tuple[str, int]] = {}
    for name, tensor in wiring.stored.items():
        uses = list(_uses(name, wiring))
        if tensor.elements <= 1 or not uses:
            continue
        dtype = tensor.dtype
        if dtype == "int32":
            if any(node.op in ("DequantizeLinear", "QLinearConv", "QGemm") for node, _ in uses):
                found[name] = ("int32", tensor.nbytes)
            continue
        if dtype in ("int64", "uint64", "uint32", "bool", "string"):
            continue
        node = uses[0][0]
        if node.op in PACKED and dtype == "uint8":
            dtype = f"int{node.integer('bits', 4)}"
        found[name] = (dtype, tensor.nbytes)
    return found


def _uses(name: str, wiring: Wiring) -> Iterator[tuple[Node, int]]:
    """Readers of a stored tensor and the input by which they read it, except as a quantization parameter."""
    for node in wiring.read.get(name, ()):
        for position, given in enumerate(node.inputs):
            if given == name and position not in PARAMETERS.get(node.op, ()) and not _scales(node, wiring):
                yield node, position


def _scales(node: Node, wiring: Wiring) -> bool:
    """Whether this Mul makes the scale of a dynamically quantized product, as ONNX Runtime writes it."""
    return node.op == "Mul" and any(
        name in wiring.made
        and wiring.made[name].op == "DynamicQuantizeLinear"
        and name == wiring.made[name].outputs[1]
        for name in node.inputs
    )


def _macs(node: Node, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of one node; 0 where its shapes are unknown."""
    sizes = [shapes.get(name) for name in node.inputs], [shapes.get(name) for name in node.outputs]
    return (operations(node, kind, *sizes) or 0) // 2


def _compute_dtype(node: Node, wiring: Wiring) -> str:
    """The dtype that ONNX Runtime's kernel multiplies in."""
    if node.op in INTEGER_KERNELS:
        return "int8"
    if node.op == "MatMulNBits":
        # Level 4 lets the kernel quantize the activations to int8 block by block.
        return "int8" if node.integer("accuracy_level", 0) == 4 else "float32"
    operands = [_quantized(name, wiring) for name in node.inputs[:2]]
    if len(operands) == 2 and all(operands) and (node.op != "Conv" or _requantized(node, wiring)):
        return "int8" if all(dtype in ("int8", "uint8") for dtype in operands) else "int16"
    direct = wiring.stored.get(node.inputs[1]) if len(node.inputs) > 1 else None
    return direct.dtype if direct is not None and direct.dtype in FLOATS else "float32"


def _quantized(name: str, wiring: Wiring) -> str | None:
    """The integer dtype that an operand was dequantized from, right before it is read; else None."""
    node = wiring.made.get(name)
    if node is None or node.op != "DequantizeLinear":
        return None
    tensor = wiring.stored.get(node.inputs[0])
    if tensor is not None:
        return tensor.dtype if tensor.dtype in NARROW else None
    zero = wiring.stored.get(node.inputs[2]) if len(node.inputs) > 2 else None
    return zero.dtype if zero is not None else "uint8"


def _requantized(node: Node, wiring: Wiring) -> bool:
    """Whether a convolution's result is quantized again: only then does ONNX Runtime fuse it to integers.

    A Relu in between is fused away where the zero point is the least integer, so that quantizing clips.
    """
    readers = wiring.read.get(node.outputs[0], ())
    relu = len(readers) == 1 and readers[0].op == "Relu"
    if relu:
        readers = wiring.read.get(readers[0].outputs[0], ())
    return bool(readers) and all(
        reader.op == "QuantizeLinear" and (not relu or _least_zero(reader, wiring)) for reader in readers
    )


def _least_zero(node: Node, wiring: Wiring) -> bool:
    """Whether the zero point of a QuantizeLinear is the least integer of its dtype (uint8 without one)."""
    if len(node.inputs) < 3:
        return True
    zero = wiring.stored.get(node.inputs[2])
    if zero is None:
        return False
    values = zero.message.raw(9) or bytes(value & 0xFF for value in zero.message.integers(5))
    return set(values) <= {0x80 if zero.dtype == "int8" else 0}


def _float_bytes(node: Node, wiring: Wiring, weights: Mapping[str, tuple[str, int]]) -> int:
    """Bytes of float weights that this node reads, directly or handed on."""
    origins = {wiring.origin(name)[0] for name in node.inputs}
    return sum(weights[name][1] for name in origins if name in weights and weights[name][0] in FLOATS)


def _files(path: Path, graph: Graph) -> set[Path]:
    """The model file and the files beside it that its tensors lie in."""
    tensors = (tensor for part in walk(graph) for tensor in part.initializers)
    places = (tensor.external for tensor in tensors)
    return {path, *(path.parent / place["location"] for place in places if place)}
