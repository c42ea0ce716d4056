"""A copy of a model in which LiteRT's reference kernels round as TensorFlow Lite Micro does: for verifying alone.

LiteRT's FULLY_CONNECTED scales its sums in double precision and rounds once ("receives the scales in float ... to avoid
loss of precision", kernels/internal/reference/integer_ops/fully_connected.h); TensorFlow Lite Micro multiplies by an
integer and rounds twice. About one value in several hundred differs by one step. The convolutions of both
round twice, and a fully connected layer is a convolution of 1 x 1 pixels.
"""

from __future__ import annotations

import math
from typing import Any

from . import flatbuffer


def as_micro(data: bytes) -> bytes:
    """The file with each integer FULLY_CONNECTED as RESHAPE, CONV_2D, RESHAPE; tensors keep their indices.

    Exact for layers with a bias or with a scale per channel. Without both, TensorFlow Lite Micro rounds the product of
    scales to float32 first, which a convolution does not: a value within 1e-7 of a rounding tie may differ.
    """
    model = flatbuffer.read(data)
    if "FULLY_CONNECTED" not in flatbuffer.operator_kinds(model):
        return data
    graph = flatbuffer.Graph(model)
    written: list[Any] = []
    for op, given in zip(graph.ops, graph.subgraph.operators, strict=True):
        if op.kind == "FULLY_CONNECTED" and _is_integer(graph, op):
            written += _convolution(graph, op, given)
        else:
            written.append(given)
    graph.subgraph.operators = written
    return flatbuffer.write(model)


def _is_integer(graph: flatbuffer.Graph, op: flatbuffer.Op) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    types = [graph.subgraph.tensors[tensor].type for tensor in (op.inputs[0], op.inputs[1])]
    integers = (schema.TensorType.INT8, schema.TensorType.INT16)
    return types[0] in integers and types[1] == schema.TensorType.INT8 and graph.is_constant(op.inputs[1])


def _convolution(graph: flatbuffer.Graph, op: flatbuffer.Op, given: Any) -> list[Any]:
    from ai_edge_litert import schema_py_generated as schema

    outputs, depth = graph.shape(op.inputs[1])
    batch = math.prod(graph.shape(op.inputs[0])) // depth
    pixels = _like(graph, op.inputs[0], (batch, 1, 1, depth))
    weights = _like(graph, op.inputs[1], (outputs, 1, 1, depth), constant=True)
    result = _like(graph, op.outputs[0], (batch, 1, 1, outputs))
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
    options.dilationHFactor = options.dilationWFactor = 1
    if given.builtinOptions is not None:
        options.fusedActivationFunction = given.builtinOptions.fusedActivationFunction
    biases = [tensor for tensor in op.inputs[2:] if tensor >= 0] or [_zeros(graph, op, outputs)]
    return [
        _reshape(graph, op.inputs[0], pixels),
        _operator(graph, "CONV_2D", [pixels, weights, *biases], [result], "Conv2DOptions", options),
        _reshape(graph, result, op.outputs[0]),
    ]


def _like(graph: flatbuffer.Graph, tensor: int, shape: tuple[int, ...], *, constant: bool = False) -> int:
    """A new tensor with the type and scales of another, and its data too where it is constant."""
    from ai_edge_litert import schema_py_generated as schema

    old, new = graph.subgraph.tensors[tensor], schema.TensorT()
    new.name, new.shape, new.type = (
        b"%s;%d" % (old.name or b"", len(graph.subgraph.tensors)),
        list(shape),
        old.type,
    )
    new.quantization, new.buffer = old.quantization, old.buffer if constant else 0
    graph.subgraph.tensors.append(new)
    return len(graph.subgraph.tensors) - 1


def _zeros(graph: flatbuffer.Graph, op: flatbuffer.Op, outputs: int) -> int:
    """A new bias of zeros: LiteRT's integer CONV_2D wants one."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    wide = graph.subgraph.tensors[op.inputs[0]].type == schema.TensorType.INT16
    scales = np.asarray(graph.subgraph.tensors[op.inputs[1]].quantization.scale, np.float32)
    values = np.zeros(outputs, np.int64 if wide else np.int32)
    found = _constant(graph, values, schema.TensorType.INT64 if wide else schema.TensorType.INT32)
    quantization = schema.QuantizationParametersT()
    quantization.scale = (scales * graph.subgraph.tensors[op.inputs[0]].quantization.scale[0]).tolist()
    quantization.zeroPoint = [0] * len(scales)
    graph.subgraph.tensors[found].quantization = quantization
    return found


def _constant(graph: flatbuffer.Graph, values: Any, kind: int) -> int:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    graph.model.buffers.append(buffer)
    tensor.name, tensor.shape = b"constant;%d" % len(graph.subgraph.tensors), list(values.shape)
    tensor.type, tensor.buffer = kind, len(graph.model.buffers) - 1
    graph.subgraph.tensors.append(tensor)
    return len(graph.subgraph.tensors) - 1


def _reshape(graph: flatbuffer.Graph, tensor: int, into: int) -> Any:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    shape = np.array(graph.shape(into), np.int32)
    wanted = _constant(graph, shape, schema.TensorType.INT32)
    options = schema.ReshapeOptionsT()
    options.newShape = shape.tolist()
    return _operator(graph, "RESHAPE", [tensor, wanted], [into], "ReshapeOptions", options)


def _operator(
    graph: flatbuffer.Graph, kind: str, inputs: list[int], outputs: list[int], name: str, options: Any
) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    # The first version of CONV_2D with int8 and of those with int16, as LiteRT registers them.
    code.version = 5 if kind == "CONV_2D" else 1
    graph.model.operatorCodes.append(code)
    operator.opcodeIndex = len(graph.model.operatorCodes) - 1
    operator.inputs, operator.outputs = inputs, outputs
    operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, name), options
    return operator
