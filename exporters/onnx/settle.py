"""The float graph in the form that quantizing starts from: flat, with stored weights, and in float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import inliner

from ...targets.errors import Unsupported
from ..job import Job
from . import graph

QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger",
     "MatMulNBits", "DynamicQuantizeLinear", "QGemm"}
)  # fmt: skip


def settled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the form that the schemes know: one flat graph whose weights are initializers.

    Functions are inlined, large Constant nodes become initializers, and initializers leave the inputs, where
    old files list them as values that a caller may override.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    constants = {}
    for node in model.graph.node:
        value = graph.attribute(node, "value", None) if node.op_type == "Constant" else None
        if isinstance(value, onnx.TensorProto) and np.prod(value.dims) >= graph.SMALLEST:
            constants[node.output[0]] = value
    for name, value in constants.items():
        value.name = name
        model.graph.initializer.append(value)
    if constants:
        graph.replace_nodes(model, [node for node in model.graph.node if node.output[0] not in constants])
    stored = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in stored]
    if len(fed) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(fed)
    return model


def refuse_narrow(model: onnx.ModelProto, job: Job) -> None:
    """Quantizing starts from float32: refuse graphs that are quantized already, or stored in another float."""
    done = sorted(QUANTIZED & {node.op_type for node in model.graph.node})
    if done:
        raise Unsupported(
            f"the model is quantized already: it has {', '.join(done)}",
            where=job.source_path,
            mend="Convert the float model that it was made from, or take --quant fp32 to keep it as it is",
        )
    other = {
        onnx.TensorProto.FLOAT16: "float16",
        onnx.TensorProto.BFLOAT16: "bfloat16",
        onnx.TensorProto.DOUBLE: "float64",
    }
    for tensor in model.graph.initializer:
        if job.quant != "fp16" and tensor.data_type in other and len(tensor.dims) > 1:
            raise Unsupported(
                f"the weight is {other[tensor.data_type]}, and {job.quant} is made from float32",
                where=f"{job.source_path}: initializer {tensor.name}",
                mend="Export the model in float32",
            )
