"""Counts a .tflite file: weights by stored type, multiply-accumulates by the type that the kernel computes in."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from ...targets.errors import ConversionFailed
from . import Audit

BYTES = {
    "FLOAT64": 8.0, "FLOAT32": 4.0, "FLOAT16": 2.0, "BFLOAT16": 2.0, "INT64": 8.0, "UINT64": 8.0, "INT32": 4.0,
    "UINT32": 4.0, "INT16": 2.0, "UINT16": 2.0, "INT8": 1.0, "UINT8": 1.0, "INT4": 0.5, "UINT4": 0.5,
    "INT2": 0.25, "BOOL": 1.0, "COMPLEX64": 8.0,
}  # fmt: skip
"""Bytes an element takes in the file, packed."""

WEIGHTS = {
    "CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "CONV_3D": (1, 2), "TRANSPOSE_CONV": (1, 3),
    "FULLY_CONNECTED": (1, 2), "BATCH_MATMUL": (0, 1), "EMBEDDING_LOOKUP": (1,), "GATHER": (0,),
}  # fmt: skip
"""Inputs that may be weights, by operator. Others read weights where a constant is float or quantized: scales
and shifts; their shapes, axes and ids are not weights."""

DECOMPOSED = {
    "STABLEHLO_COMPOSITE": ("decompositionSubgraphIndex",),
    "WHILE": ("condSubgraphIndex", "bodySubgraphIndex"),
    "IF": ("thenSubgraphIndex", "elseSubgraphIndex"),
    "CALL_ONCE": ("initSubgraphIndex",),
}
"""Operators that run another subgraph, and where they say which."""


def count(path: Path) -> Audit:
    """Count the file, with every subgraph that its signatures reach (a composite by its decomposition).

    A weight behind a DEQUANTIZE counts by its stored type, and its kernel computes in float32. A kernel with
    integer weights and float activations quantizes those as they come: it computes in int8. Scales and zero
    points are quantization parameters, not weights, and are left out. Loops count as one turn.
    Raises ConversionFailed for a file that is no .tflite model.
    """
    data = path.read_bytes()
    weights: collections.Counter[str] = collections.Counter()
    macs: collections.Counter[str] = collections.Counter()
    operators: collections.Counter[str] = collections.Counter()
    float_ops: list[str] = []
    counted: set[int] = set()
    for graph in _reached(_read(data, path)):
        for op in graph.operators:
            kind = graph.kind(op)
            operators[kind] += 1
            computed = multiply_accumulates(graph, op)
            dtype = graph.compute_type(op) if computed else ""
            macs[dtype] += computed
            held = graph.weights(op)
            for buffer, type_name, elements in held:
                if buffer not in counted:
                    weights[type_name.lower()] += math.ceil(elements * BYTES[type_name])
                    counted.add(buffer)
            tables = kind in WEIGHTS and any(type_name == "FLOAT32" for _, type_name, _ in held[:1])
            if dtype.startswith("float") or (tables and not computed):
                float_ops.append(f"{kind} {graph.label(op)!r}")
    return Audit(dict(weights), dict(+macs), dict(operators), tuple(float_ops), len(data))


class _Graph:
    """One subgraph, with what has to be known about an operator's tensors."""

    def __init__(self, model: Any, index: int, kinds: list[str]) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model, self._kinds = model, kinds
        self._tensors = model.subgraphs[index].tensors or []
        self.operators = model.subgraphs[index].operators or []
        self._types = {
            value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)
        }

    def kind(self, op: Any) -> str:
        """Operator name, as in "CONV_2D"."""
        return self._kinds[int(op.opcodeIndex)]

    def label(self, op: Any) -> str:
        """Last parts of the name of what the operator computes; of fused operators, the first's name."""
        name = str((self._tensors[int(op.outputs[0])].name or b"").decode(errors="replace"))
        parts = [part for part in name.split(";") if part] or [name]
        # Module paths in front of a class name say less than the layers around it.
        layers = [re.sub(r"(?:[\w<>]*\.)+(?=[A-Z])", "", part) for part in parts[0].split("/")]
        return "/".join(layers[-3:])[-80:]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape."""
        shape = self._tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def type_name(self, tensor: int) -> str:
        """A tensor's type, as in "INT8"."""
        name: str = self._types[int(self._tensors[tensor].type)]
        return name

    @cached_property
    def _dequantized(self) -> dict[int, int]:
        """The tensor in front of each DEQUANTIZE by the one behind it."""
        return {
            int(op.outputs[0]): int(op.inputs[0]) for op in self.operators if self.kind(op) == "DEQUANTIZE"
        }

    def _is_stored(self, tensor: int) -> bool:
        # Offset and size name data behind the FlatBuffer; 0 and 1 stand for "none".
        buffer = self._model.buffers[self._tensors[tensor].buffer]
        return (buffer.data is not None and len(buffer.data) > 0) or buffer.offset > 1

    def weights(self, op: Any) -> list[tuple[int, str, int]]:
        """(buffer, type, elements) of each stored weight that an operator reads, itself or dequantized."""
        kind = self.kind(op)
        if kind in ("DEQUANTIZE", "QUANTIZE"):
            return []
        found = []
        for position, index in enumerate(op.inputs if op.inputs is not None else ()):
            if int(index) < 0 or (kind in WEIGHTS and position not in WEIGHTS[kind]):
                continue
            tensor = self._dequantized.get(int(index), int(index))
            if self._is_stored(tensor) and (kind in WEIGHTS or self._is_number(tensor)):
                elements = math.prod(self.shape(tensor))
                found.append((int(self._tensors[tensor].buffer), self.type_name(tensor), elements))
        return found

    def _is_number(self, tensor: int) -> bool:
        quantization = self._tensors[tensor].quantization
        scaled = quantization is not None and quantization.scale is not None and len(quantization.scale) > 0
        return scaled or self.type_name(tensor).startswith(("FLOAT", "BFLOAT"))

    def compute_type(self, op: Any) -> str:
        """The dtype that a multiplying kernel computes in."""
        activation, weight = (2, 1) if self.kind(op) == "TRANSPOSE_CONV" else (0, 1)
        given, constant = (self.type_name(int(op.inputs[position])) for position in (activation, weight))
        if given.startswith("FLOAT") and constant.startswith("INT"):
            return "int8"
        return given.lower()


def multiply_accumulates(graph: _Graph, op: Any) -> int:
    """Multiply-accumulates of one operator at the file's own shapes; 0 for one that does not multiply so.

    Convolution: every output element sums kernel height × width × input channels (of its group) products.
    """
    kind = graph.kind(op)
    if kind not in WEIGHTS or kind in ("EMBEDDING_LOOKUP", "GATHER"):
        return 0
    out, second = math.prod(graph.shape(int(op.outputs[0]))), graph.shape(int(op.inputs[1]))
    if kind == "CONV_2D":  # (out, height, width, in)
        return out * math.prod(second[1:])
    if kind == "DEPTHWISE_CONV_2D":  # (1, height, width, channels)
        return out * math.prod(second[1:3])
    if kind == "CONV_3D":  # (depth, height, width, in, out)
        return out * math.prod(second[:4])
    if kind == "TRANSPOSE_CONV":  # (out, height, width, in): each input element meets every kernel element
        return math.prod(graph.shape(int(op.inputs[2]))) * math.prod(second[:3])
    if kind == "FULLY_CONNECTED":  # (out, in)
        return out * second[-1]
    first = graph.shape(int(op.inputs[0]))
    return out * first[-2 if op.builtinOptions is not None and op.builtinOptions.adjX else -1]


def _read(data: bytes, path: Path) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise ConversionFailed("it is no .tflite file: the identifier TFL3 is missing", where=path.name)
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def _reached(model: Any) -> Iterator[_Graph]:
    """The subgraphs of each signature (or the first), and those that their operators run, each once."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    kinds = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes or []]
    waiting = [int(signature.subgraphIndex) for signature in model.signatureDefs or []] or [0]
    reached: set[int] = set()
    while waiting:
        index = waiting.pop()
        if index in reached or not 0 <= index < len(model.subgraphs):
            continue
        reached.add(index)
        graph = _Graph(model, index, kinds)
        for op in graph.operators:
            fields = DECOMPOSED.get(graph.kind(op), ())
            options = op.builtinOptions2 if graph.kind(op) == "STABLEHLO_COMPOSITE" else op.builtinOptions
            waiting += [int(getattr(options, field)) for field in fields if options is not None]
        yield graph
