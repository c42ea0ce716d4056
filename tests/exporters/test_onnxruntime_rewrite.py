"""Rewrites of an ONNX graph keep what it computes, to the precision of the store that they choose."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

Array = np.ndarray[Any, Any]

values = st.floats(-1000, 1000, width=32, allow_subnormal=False)
tables = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=4, max_side=12), elements=values
)
filters = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=4, max_dims=4, min_side=2, max_side=3), elements=values
)


def model_of(nodes, inputs, weights, output="y"):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(output, FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model, **feeds: Array) -> Array:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


def step_of(largest: Array) -> Array:
    """One 127th of the largest value; a scale is a normal float32, so no step is finer."""
    return np.maximum(largest / 127, np.finfo(np.float32).tiny)


def look_up(table: Array):
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"], "look_up")]
    return model_of(nodes, {"ids": (INT64, [None, None])}, {"table": table})


@settings(max_examples=40, deadline=None)
@given(tables)
def test_int8_tables_are_right_to_half_a_step_of_their_column(table: Array) -> None:
    from modelport.exporters.runtimes.onnxruntime import rewrite

    model = look_up(table)
    assert rewrite.int8_tables(model) == 1
    found = run(model, ids=np.arange(len(table))[None])[0]
    step = step_of(np.abs(table).max(axis=0))
    assert np.all(np.abs(found - table) <= step / 2 + 1e-5 * np.abs(table))


@settings(max_examples=40, deadline=None)
@given(filters)
def test_int8_filters_are_right_to_half_a_step_of_their_channel(weight: Array) -> None:
    from modelport.exporters.runtimes.onnxruntime import rewrite

    model = model_of(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        {"x": (FLOAT, [1, weight.shape[1], 8, 8])},
        {"w": weight},
    )
    counted = rewrite.int8_filters(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    if weight.size < 16:
        assert counted == 0
        return
    widened = stored["w_int8"] * stored["w_scale"][:, None, None, None]
    step = step_of(np.abs(weight).max(axis=(1, 2, 3), keepdims=True))
    assert np.all(np.abs(widened - weight) <= step / 2 + 1e-5 * np.abs(weight))
    run(model, x=np.ones((1, weight.shape[1], 8, 8), np.float32))  # the axis is the right one


@settings(max_examples=40, deadline=None)
@given(tables)
def test_half_tables_are_right_to_half_precision(table: Array) -> None:
    from modelport.exporters.runtimes.onnxruntime import rewrite

    model = look_up(table)
    assert rewrite.half_weights(model) == ()
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    found = run(model, ids=np.arange(len(table))[None])[0]
    assert np.all(np.abs(found - table) <= np.abs(table) * 2**-11 + 6e-8)


def test_a_table_that_is_read_otherwise_as_well_stays_float() -> None:
    """A tied output layer multiplies by the table: two copies would make the file larger."""
    from modelport.exporters.runtimes.onnxruntime import rewrite

    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], "look_up"),
        helper.make_node("Transpose", ["table"], ["turned"], "turn"),
        helper.make_node("MatMul", ["rows", "turned"], ["y"], "tied"),
    ]
    table = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    model = model_of(nodes, {"ids": (INT64, [None, None])}, {"table": table})
    assert rewrite.int8_tables(model) == 0
    np.testing.assert_allclose(run(model, ids=np.array([[3]]))[0, 0], table[3] @ table.T, rtol=1e-5)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("biased", [False, True])
def test_gemm_as_matmul_computes_the_same(transposed: int, biased: bool) -> None:
    from modelport.exporters.runtimes.onnxruntime import rewrite

    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 5) if transposed else (5, 3)).astype(np.float32)
    weights = {"w": weight, **({"b": rng.normal(size=3).astype(np.float32)} if biased else {})}
    node = helper.make_node("Gemm", ["x", *weights], ["y"], "gemm", transB=transposed)
    x = rng.normal(size=(2, 5)).astype(np.float32)
    model = model_of([node], {"x": (FLOAT, [2, 5])}, weights)
    expected = run(model, x=x)
    rewrite.gemm_as_matmul(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"][: 1 + biased]
    np.testing.assert_allclose(run(model, x=x), expected, rtol=1e-5)


@pytest.mark.parametrize("attribute", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_gemm_that_matmul_and_add_cannot_say_is_left_alone(attribute: dict[str, Any]) -> None:
    from modelport.exporters.runtimes.onnxruntime import rewrite

    node = helper.make_node("Gemm", ["x", "w"], ["y"], "gemm", **attribute)
    model = model_of([node], {"x": (FLOAT, [4, 4])}, {"w": np.ones((4, 4), np.float32)})
    rewrite.gemm_as_matmul(model)
    assert [node.op_type for node in model.graph.node] == ["Gemm"]


def test_old_forms_are_settled() -> None:
    """Weights as Constant nodes, and initializers that are listed among the inputs."""
    from modelport.exporters.onnx import settle

    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    nodes = [
        helper.make_node("Constant", [], ["w1"], "constant", value=numpy_helper.from_array(weight)),
        helper.make_node("MatMul", ["x", "w1"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "w2"], ["y"], "second"),
    ]
    inputs = {"x": (FLOAT, [1, 4]), "w2": (FLOAT, [4, 4])}
    model = settle.settled(model_of(nodes, inputs, {"w2": weight}))
    assert sorted(tensor.name for tensor in model.graph.initializer) == ["w1", "w2"]
    assert [value.name for value in model.graph.input] == ["x"]
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(run(model, x=x), x @ weight @ weight)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.randoms(use_true_random=False))
def test_tidy_puts_shuffled_nodes_in_order(count: int, order: random.Random) -> None:
    from modelport.exporters.onnx import files

    nodes = [
        helper.make_node(
            "Add", ["x" if n == 0 else f"h{n - 1}", "x"], ["y" if n == count - 1 else f"h{n}"], f"n{n}"
        )
        for n in range(count)
    ]
    order.shuffle(nodes)
    model = files.tidy(model_of(nodes, {"x": (FLOAT, [1])}, {}))
    assert [node.name for node in model.graph.node] == [f"n{n}" for n in range(count)]
    assert run(model, x=np.ones(1, np.float32)) == count + 1
