"""ONNX files are counted by what ONNX Runtime computes, and run by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelport.verification.audit import audit
from modelport.verification.runners import load

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def build(path: Path, nodes, inputs, outputs, weights, **settings) -> Path:
    """Save a model; inputs and outputs are {name: (dtype, shape)}."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path, **settings)
    return path


def mlp(path: Path, **settings) -> Path:
    """[batch, 8] -> MatMul 8x16 -> Relu -> Gemm 16x4."""
    return build(
        path,
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"], "first"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "second"),
        ],
        {"x": (FLOAT, ["batch", 8])},
        {"y": (FLOAT, ["batch", 4])},
        {"w1": np.ones((8, 16), "f4"), "w2": np.ones((16, 4), "f4"), "b2": np.zeros(4, "f4")},
        **settings,
    )


def test_float_products_are_counted_by_hand(tmp_path: Path) -> None:
    counted = audit(mlp(tmp_path / "m.onnx"), "onnx")
    assert counted.weight_bytes == {"float32": 4 * (8 * 16 + 16 * 4 + 4)}
    assert counted.macs == {"float32": 8 * 16 + 16 * 4}
    assert counted.operators == {"MatMul": 1, "Relu": 1, "Gemm": 1}
    assert counted.float_ops == ("MatMul 'first'", "Gemm 'second'")  # the larger one first
    assert counted.file_bytes == (tmp_path / "m.onnx").stat().st_size


def test_external_data_counts_as_the_files_bytes(tmp_path: Path) -> None:
    path = mlp(tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    counted = audit(path, "onnx")
    assert counted.weight_bytes == {"float32": 4 * (8 * 16 + 16 * 4 + 4)}
    assert counted.file_bytes == path.stat().st_size + (tmp_path / "m.data").stat().st_size


def quantized(path: Path, operator: str = "MatMul", *, both: bool = True, zero: int | None = None) -> Path:
    """One product, its weight in int8 behind DequantizeLinear, its input so as well if `both`.

    With `zero`, a Relu follows and then a pair of Q and DQ with that zero point.
    """
    conv = operator == "Conv"
    shape, weight = ([1, 3, 8, 8], (4, 3, 3, 3)) if conv else ([1, 8], (8, 16))
    nodes = [helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], "weight")]
    given = "x"
    if both:
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        ]
        given = "xd"
    made = "y" if zero is None else "p"
    nodes.append(helper.make_node(operator, [given, "wd"], [made], "product"))
    if zero is not None:
        nodes += [
            helper.make_node("Relu", ["p"], ["r"]),
            helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ]
    weights = {
        "w": np.ones(weight, "i1"),
        "ws": np.float32(0.1),
        "s": np.float32(0.1),
        "z": np.uint8(zero or 0),
    }
    return build(
        path, nodes, {"x": (FLOAT, shape)}, {"y": (FLOAT, [1, 4, 6, 6] if conv else [1, 16])}, weights
    )


def test_a_product_of_two_dequantized_operands_computes_in_int8(tmp_path: Path) -> None:
    counted = audit(quantized(tmp_path / "m.onnx"), "onnx")
    assert counted.macs == {"int8": 8 * 16}
    assert counted.weight_bytes == {"int8": 8 * 16}  # scales and zero points are no weights
    assert counted.float_ops == ()


def test_int8_weights_alone_do_not_make_int8_arithmetic(tmp_path: Path) -> None:
    counted = audit(quantized(tmp_path / "m.onnx", both=False), "onnx")
    assert counted.macs == {"float32": 8 * 16}
    assert counted.weight_bytes == {"int8": 8 * 16}
    assert counted.float_ops == ("MatMul 'product'",)


@pytest.mark.parametrize("zero", [0, 3, None])
def test_a_convolution_computes_in_int8_only_where_onnxruntime_fuses_it(
    tmp_path: Path, zero: int | None
) -> None:
    import onnxruntime

    path = quantized(tmp_path / "m.onnx", "Conv", zero=zero)
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    fused = "QLinearConv" in kinds
    assert fused == (zero == 0)
    assert audit(path, "onnx").macs == {"int8" if fused else "float32": 4 * 6 * 6 * 3 * 3 * 3}


def test_dynamic_quantization_computes_in_int8_and_its_scales_are_no_weights(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = mlp(tmp_path / "m.onnx")
    quantize_dynamic(
        path,
        tmp_path / "q.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
    )
    counted = audit(tmp_path / "q.onnx", "onnx")
    assert counted.macs == {"int8": 8 * 16 + 16 * 4}
    assert counted.weight_bytes == {"float32": 16, "int8": 8 * 16 + 16 * 4}  # the bias stays


def test_half_weights_behind_a_cast_compute_in_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["wf"], to=FLOAT),
        helper.make_node("MatMul", ["x", "wf"], ["y"], "product"),
    ]
    path = build(
        tmp_path / "m.onnx",
        nodes,
        {"x": (FLOAT, [1, 8])},
        {"y": (FLOAT, [1, 4])},
        {"w": np.ones((8, 4), "f2")},
    )
    counted = audit(path, "onnx")
    assert counted.weight_bytes == {"float16": 64}
    assert counted.macs == {"float32": 32}


@pytest.mark.parametrize(("level", "dtype"), [(0, "float32"), (4, "int8")])
def test_blocks_of_int4_are_counted_packed(tmp_path: Path, level: int, dtype: str) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    weight = np.random.default_rng(0).normal(size=(64, 32)).astype("f4")
    path = build(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        {"x": (FLOAT, [1, 64])},
        {"y": (FLOAT, [1, 32])},
        {"w": weight},
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=32, is_symmetric=True, accuracy_level=level)
    quantizer.process()
    onnx.save(quantizer.model.model, tmp_path / "q.onnx")
    counted = audit(tmp_path / "q.onnx", "onnx")
    assert counted.weight_bytes == {"int4": 64 * 32 // 2}
    assert counted.macs == {dtype: 64 * 32}


def test_a_shared_table_is_one_weight_and_looking_up_computes_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["a"], "left"),
        helper.make_node("Gather", ["table", "ids"], ["b"], "right"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    path = build(
        tmp_path / "m.onnx",
        nodes,
        {"ids": (INT64, ["batch", "sequence"])},
        {"y": (FLOAT, ["batch", "sequence", 4])},
        {"table": np.ones((10, 4), "f4")},
    )
    counted = audit(path, "onnx")
    assert counted.weight_bytes == {"float32": 160}
    assert sum(counted.macs.values()) == 0
    assert counted.float_ops == ("Gather 'left'", "Gather 'right'")


def test_runner_answers_by_name_and_casts_what_it_is_fed(tmp_path: Path) -> None:
    runner = load(mlp(tmp_path / "m.onnx"), "onnx")
    assert (runner.inputs, runner.outputs, runner.free_sequence) == (("x",), ("y",), False)
    given = runner.run({"x": np.arange(16, dtype=np.float64).reshape(2, 8)})["y"]
    np.testing.assert_allclose(given, np.repeat([[28 * 16.0], [92 * 16.0]], 4, axis=1))
    runner.invoke()


@pytest.mark.parametrize(("length", "free"), [("sequence", True), (12, False)])
def test_runner_tells_whether_the_sequence_is_free(tmp_path: Path, length: str | int, free: bool) -> None:
    path = build(
        tmp_path / "m.onnx",
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        {"ids": (INT64, ["batch", length])},
        {"y": (FLOAT, ["batch", length, 4])},
        {"table": np.ones((10, 4), "f4")},
    )
    runner = load(path, "onnx")
    assert runner.free_sequence is free
    assert runner.run({"ids": np.zeros((1, 12), np.int32)})["y"].shape == (1, 12, 4)
