"""Small quantized graphs by hand, right in everything, for tests to break one thing of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

Edit = Callable[["Parts"], None]


class Parts:
    """A residual block in int8 that keeps every rule: x -> conv -> relu -> conv -> add with x -> relu -> gemm."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.opset = 21
        self.nodes: dict[str, onnx.NodeProto] = {}
        self.stored: dict[str, np.ndarray] = {"zero": np.zeros((), np.int8)}
        self.types: dict[str, int] = {}
        self.output = "y"
        self.pair("x")
        self.product("conv1", "Conv", "x_dq", rng.normal(size=(4, 4, 3, 3)), 0, "c1", pads=[1, 1, 1, 1])
        self.node("relu1", "Relu", ["c1"], "r1")
        self.pair("r1")
        self.product("conv2", "Conv", "r1_dq", rng.normal(size=(4, 4, 3, 3)), 0, "c2", pads=[1, 1, 1, 1])
        self.node("add", "Add", ["c2", "x_dq"], "sum")
        self.node("relu2", "Relu", ["sum"], "r2")
        self.node("flat", "Flatten", ["r2"], "f")
        self.pair("f")
        self.product("head", "Gemm", "f_dq", rng.normal(size=(5, 4 * 16)), 0, "y", transB=1)

    def node(self, name: str, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """One node with one output."""
        self.nodes[name] = helper.make_node(operator, inputs, [output], name, **attributes)

    def pair(self, value: str, scale: float = 0.05) -> None:
        """Quantize and dequantize behind a value: gives `<value>_dq`."""
        self.stored[f"{value}_scale"] = np.asarray(scale, np.float32)
        self.node(f"{value}_q", "QuantizeLinear", [value, f"{value}_scale", "zero"], f"{value}_q")
        self.node(f"{value}_d", "DequantizeLinear", [f"{value}_q", f"{value}_scale", "zero"], f"{value}_dq")

    def product(
        self, name: str, operator: str, given: str, weight: Any, axis: int, output: str, **attributes: Any
    ) -> None:
        """A product with an int8 weight and a float bias."""
        others = tuple(other for other in range(weight.ndim) if other != axis)
        scale = (np.abs(weight).max(axis=others) / 127).astype(np.float32)
        narrow = np.rint(weight / np.expand_dims(scale, others)).astype(np.int8)
        self.stored |= {
            f"{name}_w": narrow,
            f"{name}_scale": scale,
            f"{name}_zero": np.zeros(scale.shape, np.int8),
            f"{name}_b": np.zeros(weight.shape[axis], np.float32),
        }
        parts = [f"{name}_w", f"{name}_scale", f"{name}_zero"]
        self.node(f"{name}_d", "DequantizeLinear", parts, f"{name}_wide", axis=axis)
        self.node(name, operator, [given, f"{name}_wide", f"{name}_b"], output, **attributes)

    def model(self) -> onnx.ModelProto:
        """The graph with its value types inferred, in an order in which it can be computed."""
        from modelport.exporters.onnx import files

        graph = helper.make_graph(
            list(self.nodes.values()),
            "block",
            [helper.make_tensor_value_info("x", T.FLOAT, ["batch", 4, 4, 4])],
            [helper.make_tensor_value_info(self.output, self.types.get(self.output, T.FLOAT), None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.stored.items()],
            value_info=[helper.make_tensor_value_info(name, kind, None) for name, kind in self.types.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return files.tidy(onnx.shape_inference.infer_shapes(model))


def write(path: Path, edit: Edit | None = None) -> Path:
    """The block at `path`, after `edit` has had its way with its parts."""
    parts = Parts()
    if edit is not None:
        edit(parts)
    onnx.save(parts.model(), path)
    return path
