"""One ONNX graph as rules look at it: who makes and reads each value, what is stored, and every value's dtype."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

T = onnx.TensorProto
FLOATS = frozenset({T.FLOAT, T.FLOAT16, T.BFLOAT16, T.DOUBLE})
NARROW = frozenset({T.INT8, T.FLOAT8E4M3FN})
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def label(node: onnx.NodeProto) -> str:
    """A node for people: its operator and name, or its first result's name."""
    return f"{node.op_type} {(node.name or node.output[0])!r}"


@dataclass
class View:
    """The main graph of one model, indexed once for all rules."""

    model: onnx.ModelProto
    makers: dict[str, onnx.NodeProto] = field(init=False)
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = field(init=False)
    stored: dict[str, onnx.TensorProto] = field(init=False)
    kinds: dict[str, int] = field(init=False)
    opset: int = field(init=False)

    def __post_init__(self) -> None:
        """Index the graph."""
        graph = self.model.graph
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers = {}
        for node in graph.node:
            for position, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, position))
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.stored[node.output[0]] = attribute.t
        self.kinds = {name: tensor.data_type for name, tensor in self.stored.items()}
        for value in (*graph.value_info, *graph.input, *graph.output):
            self.kinds[value.name] = value.type.tensor_type.elem_type
        self.opset = max(
            (entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0
        )

    @property
    def nodes(self) -> Any:
        """The nodes, in file order."""
        return self.model.graph.node

    def of(self, *operators: str) -> list[onnx.NodeProto]:
        """The nodes of these kinds."""
        return [node for node in self.nodes if node.op_type in operators]

    def maker(self, name: str, *operators: str) -> onnx.NodeProto | None:
        """The node that makes a value, if it is of one of these kinds (of any where none is named)."""
        node = self.makers.get(name)
        return node if node is not None and (not operators or node.op_type in operators) else None

    def values(self, name: str) -> np.ndarray[Any, Any] | None:
        """A stored tensor as float64; None for a value that is computed."""
        if name not in self.stored:
            return None
        found: np.ndarray[Any, Any] = numpy_helper.to_array(self.stored[name]).astype(np.float64)
        return found

    def is_output(self, name: str) -> bool:
        """Whether a caller gets this value."""
        return any(value.name == name for value in self.model.graph.output)

    def is_quantized(self, node: onnx.NodeProto) -> bool:
        """Whether both operands of a product were dequantized right before it."""
        return len(node.input) > 1 and all(
            self.maker(name, "DequantizeLinear") is not None for name in node.input[:2]
        )


def read(path: Path) -> View:
    """The model at `path`, with its weights."""
    return View(onnx.load(str(path)))
