"""Tiny .tflite files made field by field, for what reads them and plans their memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class T:
    """A tensor: int8 with one scale unless told otherwise; `data` makes it a constant."""

    shape: Sequence[int]
    kind: str = "INT8"
    data: np.ndarray | None = None
    scales: int = 1
    variable: bool = False


@dataclass(frozen=True)
class O:  # noqa: E742
    """An operator by its schema name, with the indices of its tensors and the fields of its options."""

    kind: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    options: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def zeros(*shape: int, kind: str = "INT8", scales: int = 1) -> T:
    """A constant of zeros."""
    return T(shape, kind, np.zeros(shape, {"INT8": np.int8, "INT32": np.int32}[kind]), scales)


def ints(*values: int) -> T:
    """A constant int32 vector, as axes and paddings are."""
    return T((len(values),), "INT32", np.array(values, np.int32), 0)


def model(tensors: Sequence[T], operators: Sequence[O], inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    """A ModelT with one subgraph; tensor n is called "t<n>"."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.ModelT()
    made.version, made.buffers, made.operatorCodes = 3, [schema.BufferT()], []
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(made, schema, number, tensor) for number, tensor in enumerate(tensors)]
    graph.operators = [_operator(made, schema, operator) for operator in operators]
    graph.inputs, graph.outputs = list(inputs), list(outputs)
    made.subgraphs = [graph]
    return made


def _tensor(made: Any, schema: Any, number: int, given: T) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.isVariable = b"t%d" % number, list(given.shape), given.variable
    tensor.type, tensor.buffer = getattr(schema.TensorType, given.kind), 0
    if given.scales:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = [0.5] * given.scales
        tensor.quantization.zeroPoint = [0] * given.scales
    if given.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(given.data.tobytes(), np.uint8)
        tensor.buffer = len(made.buffers)
        made.buffers.append(buffer)
    return tensor


def _operator(made: Any, schema: Any, given: O) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, given.kind)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    made.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(made.operatorCodes) - 1
    operator.inputs, operator.outputs = list(given.inputs), list(given.outputs)
    if given.options:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, given.options)
        operator.builtinOptions = getattr(schema, given.options + "T")()
        for name, value in given.fields.items():
            setattr(operator.builtinOptions, name, value)
    return operator
