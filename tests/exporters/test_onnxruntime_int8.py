"""Static int8 for server-cpu: really in the graph that runs, close to float, with ranges from the samples alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from modelport.calibration.samples import write_set
from modelport.verification.audit import audit
from modelport.verification.runners import load
from onnxruntime_jobs import compare, cosine, export, quantize, text

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")


def optimized(path: Path, folder: Path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime really executes."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(folder / "optimized.onnx")
    settings.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize(
    ("name", "least"),
    [("cnn", 0.999), ("mobilenet", 0.98), ("resnet", 0.999), ("vit", 0.99), ("bert", 0.995)],
)
def test_static_int8_is_really_int8_and_close(
    float_files: dict[str, Path], tmp_path: Path, name: str, least: float
) -> None:
    path, _ = quantize(float_files, name, "int8", tmp_path / "out")
    counted = audit(path, "onnx")
    assert counted.mac_share(["int8"]) > 0.95
    assert (
        counted.weight_share(["int8"]) > 0.9
    )  # tiny networks: biases and norms weigh more than in real ones
    assert compare(float_files, name, path) > least
    kinds = optimized(path, tmp_path)
    assert not kinds.keys() & {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm"}


def test_a_convolutional_graph_stays_in_integers_and_a_transformer_only_multiplies_in_them(
    float_files: dict[str, Path], tmp_path: Path
) -> None:
    whole, _ = quantize(float_files, "resnet", "int8", tmp_path / "resnet")
    mixed, done = quantize(float_files, "bert", "int8", tmp_path / "bert")
    assert optimized(whole, tmp_path)["QuantizeLinear"] <= 2
    assert optimized(whole, tmp_path)["QLinearAdd"] == 8
    assert optimized(mixed, tmp_path)["SkipLayerNormalization"] == 4
    # 16 products; only softmax times values goes on in 8 bits, as the next product wants it.
    assert optimized(mixed, tmp_path)["MatMulIntegerToFloat"] == 14
    assert optimized(mixed, tmp_path)["QLinearMatMul"] == 2
    assert any("int8-dynamic is the better choice" in note for note in done.notes)


def test_dynamic_is_not_recommended_for_a_convolutional_network(
    float_files: dict[str, Path], tmp_path: Path
) -> None:
    _, done = quantize(float_files, "resnet", "int8", tmp_path / "out")
    assert not any("int8-dynamic" in note for note in done.notes)


def test_results_leave_the_graph_in_float(float_files: dict[str, Path], tmp_path: Path) -> None:
    path, _ = quantize(float_files, "resnet", "int8", tmp_path / "out")
    model = onnx.load(path)
    (output,) = model.graph.output
    (maker,) = [node for node in model.graph.node if output.name in node.output]
    assert maker.op_type == "Gemm"


def test_observers_give_ranges_of_their_own(float_files: dict[str, Path], tmp_path: Path) -> None:
    scales = {}
    for observer in ("minmax", "percentile:99", "entropy", "mse"):
        path, done = quantize(float_files, "cnn", "int8", tmp_path / observer[:4], observer=observer)
        model = onnx.load(path)
        stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        scales[observer] = float(stored["input_scale"])
        assert f"Activation ranges by {observer} over 16 samples." in done.notes
    images = np.load(float_files["cnn"].parent.parent / "samples-input" / "calibration" / "input_0.npy")
    assert scales["minmax"] == pytest.approx((images.max() - images.min()) / 255, rel=1e-5)
    assert scales["percentile:99"] < 0.7 * scales["minmax"]
    assert scales["mse"] < scales["minmax"]
    assert scales["entropy"] <= scales["minmax"]


def test_padding_is_cut_off_before_ranges_are_taken(float_files: dict[str, Path], tmp_path: Path) -> None:
    """Samples are 12 tokens long and padded to 20: what stands behind must not matter."""
    folder = float_files["bert"].parent.parent
    arrays = text(np.random.default_rng(0), 16, 20)
    arrays["input_ids"][:, 12:] = 499
    write_set(tmp_path / "other" / "calibration", arrays, lengths=np.full(16, 12))
    arrays["input_ids"][:, 12:] = 1
    write_set(tmp_path / "one" / "calibration", arrays, lengths=np.full(16, 12))
    for name in ("other", "one"):
        export("onnx", folder / "bert-fp32" / "model.onnx", "int8", tmp_path / f"{name}-out", tmp_path / name)
    files = [(tmp_path / f"{name}-out" / "model.onnx").read_bytes() for name in ("other", "one")]
    assert files[0] == files[1]


def test_a_relu_that_is_given_out_stays_a_relu(tmp_path: Path) -> None:
    # ONNX Runtime's quantizer leaves it out, since quantizing clips as it does; freed of that, it would be lost.
    helper, rng = onnx.helper, np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("a", (16, 32)), ("b", (32, 10)))
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["hidden"], "first"),
        helper.make_node("Relu", ["hidden"], ["features"], "relu"),
        helper.make_node("Gemm", ["features", "b"], ["logits"], "second"),
    ]
    ports = [
        helper.make_tensor_value_info(name, 1, [1, size])
        for name, size in (("x", 16), ("features", 32), ("logits", 10))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10),
        tmp_path / "net.onnx",
    )
    write_set(tmp_path / "samples" / "calibration", {"x": rng.normal(size=(64, 16)).astype(np.float32)})
    done = export("onnx", tmp_path / "net.onnx", "int8", tmp_path / "out", tmp_path / "samples")
    source, made = load(tmp_path / "net.onnx", "onnx"), load(tmp_path / "out" / done.files[0], "onnx")
    assert source is not None
    assert made is not None
    x = {"x": rng.normal(size=(1, 16)).astype(np.float32)}
    for name, expected in source.run(x).items():
        assert cosine(expected, made.run(x)[name]) > 0.995
