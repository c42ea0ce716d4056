"""The engine-ready graphs: where Q/DQ stands, what stays float32, and that each computes what the float graph does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")

from onnx import TensorProto as T  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from modelport.calibration.samples import write_set  # noqa: E402
from modelport.exporters.job import Job  # noqa: E402
from modelport.exporters.runtimes.tensorrt import balance, graphs, placement, quantize  # noqa: E402
from modelport.targets.errors import Unsupported, UsageError  # noqa: E402
from modelport.verification import runners  # noqa: E402
from modelport.verification.audit import audit  # noqa: E402
from modelport.verification.fidelity import cosine  # noqa: E402
from modelport.verification.rules import tensorrt as rules  # noqa: E402

SHAPE = (1, 16, 8, 8)


def model(nodes: list[Any], stored: dict[str, np.ndarray], shape: Any = ("batch", *SHAPE[1:])) -> Any:
    """A float graph from x to y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", T.FLOAT, shape)],
        [helper.make_tensor_value_info("y", T.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    """A node that is called by its output."""
    return helper.make_node(operator, inputs.split(), [output], output, **attributes)


def residual_block(*, shortcut: bool = False) -> Any:
    """conv, relu, conv, and the addition of x, or of a convolution of x."""
    rng = np.random.default_rng(0)
    weights = {f"w{n}": rng.normal(size=(16, 16, 3, 3)) * 0.1 for n in (1, 2)}
    weights["ws"] = rng.normal(size=(16, 16, 1, 1))
    weights["wh"] = rng.normal(size=(5, 16)) * 0.3
    nodes = [
        node("Conv", "x w1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2", "c2", pads=[1, 1, 1, 1]),
        *([node("Conv", "x ws", "s")] if shortcut else []),
        node("Add", "s c2" if shortcut else "c2 x", "sum"),
        node("Relu", "sum", "r2"),
        node("GlobalAveragePool", "r2", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f wh", "y", transB=1),
    ]
    used = {name for made in nodes for name in made.input}
    return model(nodes, {name: value for name, value in weights.items() if name in used})


def job(folder: Path, quant: str, count: int = 8, shape: tuple[int, ...] = SHAPE, scale: float = 1.0) -> Job:
    """A job with samples of x."""
    if count:
        samples = np.random.default_rng(1).normal(size=(count, *shape[1:])).astype(np.float32) * scale
        write_set(folder / "samples" / "calibration", {"x": samples})
    return Job(
        (), "onnx", "model.onnx", "server-gpu", "tensorrt", quant, str(folder), str(folder),
        samples=str(folder / "samples"),
    )  # fmt: skip


def made(folder: Path, source: Any, quant: str, **options: Any) -> tuple[Path, tuple[str, ...]]:
    """The graph that a scheme makes, on disk, and its notes."""
    copy = onnx.ModelProto.FromString(source.SerializeToString())
    result, notes = graphs.make(job(folder, quant, **options), copy, lambda *stage: None)
    onnx.checker.check_model(result, full_check=True)
    onnx.save(result, folder / "model.onnx")
    return folder / "model.onnx", notes


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    """y, as verification computes it."""
    runner = runners.load(path, "tensorrt")
    return runner.run({"x": x})["y"]


def test_the_residual_is_quantized_and_the_convolution_that_is_fused_is_not() -> None:
    placed = placement.place(residual_block())
    assert placed.activations == {
        "x": (("c1", 0), ("sum", 1)), "r1": (("c2", 0),), "f": (("y", 0),)
    }  # fmt: skip
    assert placed.weights == {("w1", 0): (("c1", 1),), ("w2", 0): (("c2", 1),), ("wh", 0): (("y", 1),)}


def test_of_two_convolutions_the_shortcut_is_the_residual() -> None:
    placed = placement.place(residual_block(shortcut=True))
    assert placed.activations["s"] == (("sum", 0),)
    assert "c2" not in placed.activations


def test_axes_follow_the_operator() -> None:
    stored = {"w": np.ones((4, 6)), "v": np.ones((6, 8)), "u": np.ones((3, 8))}
    nodes = [node("MatMul", "x w", "a"), node("Gemm", "a v", "b"), node("Gemm", "b u", "y", transB=1)]
    assert set(placement.place(model(nodes, stored, (2, 4))).weights) == {("w", 1), ("v", 1), ("u", 0)}


@pytest.mark.parametrize("attributes", [{"alpha": 2.0}, {"transA": 1}])
def test_products_that_scale_or_turn_their_input_stay_float(attributes: dict[str, Any]) -> None:
    nodes = [node("Gemm", "x w", "y", **attributes)]
    assert not placement.place(model(nodes, {"w": np.ones((4, 4))}, (4, 4))).weights


def test_transformers_quantize_products_alone() -> None:
    stored = {"w": np.ones((16, 16)), "g": np.ones(16)}
    nodes = [
        node("MatMul", "x w", "m"), node("Add", "m x", "sum"), node("LayerNormalization", "sum g", "y"),
    ]  # fmt: skip
    assert set(placement.place(model(nodes, stored, (2, 4, 16))).activations) == {"x"}


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize(
    ("quant", "least"), [("fp16", 0.99999), ("bf16", 0.999), ("int8", 0.999), ("fp8", 0.99)]
)
def test_every_scheme_keeps_the_rules_and_computes_the_same(
    tmp_path: Path, quant: str, least: float, shortcut: bool
) -> None:
    source = residual_block(shortcut=shortcut)
    onnx.save(source, tmp_path / "float.onnx")
    path, _ = made(tmp_path, source, quant)
    x = np.random.default_rng(2).normal(size=(4, *SHAPE[1:])).astype(np.float32)
    assert cosine(outputs(tmp_path / "float.onnx", x), outputs(path, x)) > least
    assert rules.check(path) == ()
    counted = audit(path, "tensorrt")
    dtype = {"fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "float8_e4m3"}[quant]
    assert set(counted.weight_bytes) <= {dtype, "float16"}
    assert set(counted.macs) == {dtype}
    written = onnx.load(path)
    assert [value.type.tensor_type.elem_type for value in (*written.graph.input, *written.graph.output)] == [
        1,
        1,
    ]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made(tmp_path / name, residual_block(), "int8")
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


def test_what_passes_65504_stays_float32_and_is_named(tmp_path: Path) -> None:
    nodes = [node("Mul", "x x", "square"), node("Sqrt", "square", "root"), node("Add", "root x", "y")]
    source = model(nodes, {}, ("batch", 16))
    path, notes = made(tmp_path, source, "fp16", shape=(1, 16), scale=1000.0)
    assert any("In float32, because a value passes 65504" in note and "square" in note for note in notes)
    x = np.full((1, 16), -900.0, np.float32)
    np.testing.assert_array_equal(outputs(path, x), 0.0)
    kinds = {value.name: value.type.tensor_type.elem_type for value in onnx.load(path).graph.value_info}
    assert (kinds["square"], kinds["root_half"]) == (T.FLOAT, T.FLOAT16)


def test_the_check_sees_an_overflow_that_onnxruntime_hides(tmp_path: Path) -> None:
    """Its CPU provider computes halves in float32 and drops the casts; a GPU would give infinity."""
    import onnxruntime

    nodes = [node("Mul", "x x", "square"), node("Sqrt", "square", "y")]
    path, _ = made(tmp_path, model(nodes, {}, ("batch", 16)), "fp16", shape=(1, 16))  # samples around 1
    x = np.full((1, 16), 900.0, np.float32)
    assert np.isinf(outputs(path, x)).all()
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert np.isfinite(plain.run(None, {"x": x})[0]).all()


def test_masks_stand_for_infinity_and_do_not_widen_the_graph(tmp_path: Path) -> None:
    nodes = [node("Add", "x mask", "masked"), node("Softmax", "masked", "y", axis=-1)]
    mask = np.array([0, 0, 0, -3.4e38])
    path, notes = made(tmp_path, model(nodes, {"mask": mask}, ("batch", 4)), "fp16", shape=(1, 4))
    assert any("stand for infinity" in note for note in notes)
    assert not any("In float32" in note for note in notes)
    given = outputs(path, np.zeros((1, 4), np.float32))
    np.testing.assert_allclose(given, [[1 / 3, 1 / 3, 1 / 3, 0]], atol=1e-3)


@pytest.mark.parametrize("quant", ["fp16", "bf16"])
def test_positions_are_computed_in_float32(tmp_path: Path, quant: str) -> None:
    """Angles of hundreds of radians: 8 or 11 bits of mantissa would turn them by whole degrees."""
    nodes = [node("Mul", "x frequency", "angle"), node("Sin", "angle", "sine"), node("Relu", "sine", "y")]
    source = model(nodes, {"frequency": np.array([0.7])}, ("batch", 4))
    path, notes = made(tmp_path, source, quant, shape=(1, 4))
    assert any("positions" in note for note in notes)
    x = np.array([[301.0, 513.0, 907.0, 1001.0]], np.float32)
    np.testing.assert_allclose(outputs(path, x), np.maximum(np.sin(x * np.float32(0.7)), 0), atol=5e-3)


def test_a_wide_product_has_wide_operands(tmp_path: Path) -> None:
    """An int8 product whose result passes 65504: its dequantizes are float32 as well, and no cast stands between."""
    nodes = [node("MatMul", "x w", "m"), node("Relu", "m", "r"), node("MatMul", "r v", "y")]
    stored = {"w": np.full((16, 16), 100.0), "v": np.full((16, 4), 1e-6)}
    path, notes = made(tmp_path, model(nodes, stored, ("batch", 16)), "int8", shape=(1, 16), scale=1000.0)
    assert any("65504" in note for note in notes)
    assert rules.check(path) == ()
    kinds = {value.name: value.type.tensor_type.elem_type for value in onnx.load(path).graph.value_info}
    assert kinds["m"] == T.FLOAT


def test_balancing_keeps_a_float_graph_and_helps_int8(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    channels = np.ones(32)
    channels[3] = 200.0
    stored = {
        "big": channels, "w": rng.normal(size=(32, 32)), "g": np.ones(32), "v": rng.normal(size=(32, 8)),
    }  # fmt: skip
    nodes = [
        node("LayerNormalization", "x g", "n"), node("Mul", "n big", "uneven"),
        node("MatMul", "uneven w", "m"), node("LayerNormalization", "m g", "k"), node("MatMul", "k v", "y"),
    ]  # fmt: skip
    source = model(nodes, stored, ("batch", 4, 32))
    onnx.save(source, tmp_path / "float.onnx")
    x = rng.normal(size=(8, 4, 32)).astype(np.float32)
    expected = outputs(tmp_path / "float.onnx", x)
    found = {}
    for name, uneven in (("balanced", balance.UNEVEN), ("not", 1e30)):
        (tmp_path / name).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(balance, "UNEVEN", uneven)
            path, notes = made(tmp_path / name, source, "int8", shape=(1, 4, 32))
        found[name] = 1 - cosine(expected, outputs(path, x))
        assert any("1 activations are balanced" in note for note in notes) == (name == "balanced")
    assert found["balanced"] < 0.5 * found["not"]


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=40), st.sampled_from(["int8", "fp8"]))
def test_weights_come_back_within_half_a_step(values: list[float], quant: str) -> None:
    weight = np.array(values[: len(values) // 2 * 2], np.float32).reshape(2, -1)
    narrow, scale = quantize._narrow(weight, 0, quantize.FORMS[quant], "w")
    stored = numpy_helper.to_array(narrow).astype(np.float64)
    back = stored * scale[:, None].astype(np.float64)
    assert np.array_equal(scale, scale.astype(np.float16).astype(np.float32))
    assert (scale > 0).all()
    step = scale[:, None] if quant == "int8" else np.maximum(np.abs(weight) / 8, scale[:, None] * 2.0**-9)
    assert (np.abs(back - weight) <= step / 2 * 1.001 + 1e-30).all()


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-2000, 2000, width=32), min_size=1, max_size=30))
def test_onnxruntime_rounds_to_float8_as_the_format_says(values: list[float]) -> None:
    """QuantizeLinear and DequantizeLinear of E4M3 on the CPU against ml_dtypes: what fp8 is verified with."""
    import ml_dtypes
    import onnxruntime

    zero = helper.make_tensor("zero", T.FLOAT8E4M3FN, (), b"\0", raw=True)
    nodes = [node("QuantizeLinear", "x scale zero", "q"), node("DequantizeLinear", "q scale zero", "y")]
    graph = model(nodes, {"scale": np.asarray(0.5, np.float32)}, ("n",))
    graph.graph.initializer.append(zero)
    del graph.graph.value_info[:]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    x = np.array(values, np.float32)
    expected = np.clip(x * 2, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * 0.5
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


def test_eight_bits_without_samples_say_how_to_give_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        graphs.make(job(tmp_path, "int8", count=0), residual_block(), lambda *stage: None)
    assert caught.value.where == "--calibration"


def test_what_cannot_be_quantized_is_refused(tmp_path: Path) -> None:
    plain = model([node("Relu", "x", "y")], {})
    with pytest.raises(Unsupported, match="no product with a weight"):
        graphs.make(job(tmp_path, "int8"), plain, lambda *stage: None)
    with pytest.raises(Unsupported, match="no scheme"):
        graphs.make(job(tmp_path, "int3", count=0), plain, lambda *stage: None)
    (tmp_path / "again").mkdir()
    quantized = onnx.load(made(tmp_path / "again", residual_block(), "int8")[0])
    with pytest.raises(Unsupported, match="quantized already"):
        graphs.make(job(tmp_path / "again", "fp16", count=0), quantized, lambda *stage: None)


def test_a_float8_convolution_needs_sixteen_channels(tmp_path: Path) -> None:
    thin = model(
        [node("Conv", "x a", "c", pads=[1, 1, 1, 1]), node("Conv", "c b", "y")],
        {"a": np.ones((8, 16, 3, 3)) * 0.1, "b": np.ones((32, 8, 1, 1)) * 0.1},
    )
    assert placement.place(thin, narrow_only=True).weights == {}
    assert set(placement.place(thin).weights) == {("a", 0), ("b", 0)}


def test_names_of_values_say_their_dtype(tmp_path: Path) -> None:
    path, _ = made(tmp_path, residual_block(), "fp16")
    for value in onnx.load(path).graph.value_info:
        assert (value.type.tensor_type.elem_type == T.FLOAT16) == value.name.endswith("_half")
