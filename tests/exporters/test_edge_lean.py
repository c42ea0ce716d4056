"""What a board would carry for nothing goes, and what computes stays."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from modelport.exporters.litert import flatbuffer
from modelport.exporters.runtimes.tflite_micro import lean


def tensor(name: str, buffer: int, shape=(1, 4), kind=schema.TensorType.INT8, scale=0.5) -> schema.TensorT:
    made = schema.TensorT()
    made.name, made.buffer, made.shape, made.type = name.encode(), buffer, list(shape), kind
    made.quantization = schema.QuantizationParametersT()
    made.quantization.scale, made.quantization.zeroPoint = [scale], [0]
    made.quantization.min, made.quantization.max = [-1.0], [1.0]
    return made


def buffer(*values: int) -> schema.BufferT:
    made = schema.BufferT()
    made.data = np.array(values, np.uint8) if values else None
    return made


@pytest.fixture
def model():
    """x + w, then + w2 where w2 has w's bytes; an unused tensor, buffer, code and metadata lie about."""
    made = schema.ModelT()
    made.version = 3
    made.description = b"a converter"
    made.metadata = [schema.MetadataT()]
    made.metadata[0].name, made.metadata[0].buffer = b"min_runtime_version", 5
    made.buffers = [buffer(), buffer(), buffer(1, 2, 3, 4), buffer(1, 2, 3, 4), buffer(9, 9, 9, 9), buffer(7)]
    codes = []
    for builtin in (schema.BuiltinOperator.MUL, schema.BuiltinOperator.ADD, schema.BuiltinOperator.ADD):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 2
        codes.append(code)
    made.operatorCodes = codes
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", 1), tensor("w", 2), tensor("sum", 1), tensor("w2", 3), tensor("y", 1), tensor("unused", 4),
    ]  # fmt: skip
    graph.inputs, graph.outputs = [0], [4]
    graph.operators = []
    for code, inputs, output in ((1, (0, 1), 2), (2, (2, 3), 4)):
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = code, list(inputs), [output]
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
        graph.operators.append(op)
    made.subgraphs = [graph]
    flatbuffer.name_signature(made, ["x"], ["y"])
    return made


def test_nothing_that_is_unused_stays(model):
    lean.strip(model)
    assert [t.name for t in model.subgraphs[0].tensors] == [b"x", b"w", b"sum", b"y"]
    assert len(model.buffers) == 2
    assert len(model.operatorCodes) == 1
    assert model.metadata is None
    assert all(t.quantization.min is None for t in model.subgraphs[0].tensors)


def test_equal_constants_are_one_tensor_and_other_scales_are_not(model):
    model.subgraphs[0].tensors[3].quantization.scale = [0.25]
    lean.strip(model)
    constants = [t for t in model.subgraphs[0].tensors if t.buffer]
    assert [t.name for t in constants] == [b"w", b"w2"]
    assert len({t.buffer for t in constants}) == 1


def test_it_computes_the_same_and_the_signature_keeps_its_names(model):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    given = np.array([[1, -2, 3, 50]], np.int8)
    results = []
    for change in (lambda m: None, lean.strip, lean.drop_names):
        change(model)
        interpreter = Interpreter(
            model_content=flatbuffer.write(model), experimental_op_resolver_type=OpResolverType.BUILTIN_REF
        )
        runner = interpreter.get_signature_runner("serving_default")
        results.append(runner(x=given)["y"])
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert [t.name for t in model.subgraphs[0].tensors] == [b"x", None, None, b"y"]
