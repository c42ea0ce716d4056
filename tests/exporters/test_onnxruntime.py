"""The server-cpu exporter: the same function in every scheme, the scheme really in the file, the same bytes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.calibration.samples import write_set
from modelport.exporters.job import Job, Outcome
from modelport.sources.loading.reference import load_reference
from modelport.targets.errors import SourceUnreadable, Unsupported, UsageError
from modelport.verification.audit import audit
from modelport.verification.runners import load

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")
torch: Any = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EDGE = 64


def cnn() -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def networks() -> dict[str, object]:
    t = transformers
    small = {"num_labels": 10, "image_size": EDGE}
    return {
        "mobilenet": lambda: t.MobileNetV2ForImageClassification(t.MobileNetV2Config(**small)),
        "resnet": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], **small)
        ),
        "vit": lambda: t.ViTForImageClassification(
            t.ViTConfig(
                hidden_size=96, num_hidden_layers=3, num_attention_heads=3, intermediate_size=192, **small
            )
        ),
        "bert": lambda: t.BertModel(
            t.BertConfig(
                vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=128, max_position_embeddings=64,
            )
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every network as a source, and calibration samples for images and for text."""
    root = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for name, make in networks().items():
        model = make().eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as training would leave it, so that folding shows
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
                torch.nn.init.normal_(module.running_mean, std=0.1)
        model.save_pretrained(root / name)
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        cnn().eval(), (torch.randn(2, 3, EDGE, EDGE),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, root / "cnn.pt2")
    for name, shape in (("pixel_values", (16, 3, EDGE, EDGE)), ("input", (16, 3, EDGE, EDGE))):
        images = rng.normal(size=shape).astype(np.float32)
        write_set(root / f"samples-{name}" / "calibration", {name: images})
    write_set(root / "samples-text" / "calibration", text(rng, 16, 20), lengths=np.full(16, 12))
    return root


def text(rng: np.random.Generator, count: int, length: int) -> dict[str, np.ndarray]:
    mask = np.ones((count, length), np.int64)
    mask[:, length - length // 4 :] = 0
    return {
        "input_ids": rng.integers(1, 500, (count, length)),
        "attention_mask": mask,
        "token_type_ids": np.zeros((count, length), np.int64),
    }


def source(folder: Path, name: str) -> tuple[str, Path]:
    return ("torch-exported", folder / "cnn.pt2") if name == "cnn" else ("huggingface", folder / name)


def feed(name: str, count: int, length: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    if name == "bert":
        return text(rng, count, length)
    key = "input" if name == "cnn" else "pixel_values"
    return {key: rng.normal(size=(count, 3, EDGE, EDGE)).astype(np.float32)}


def export(kind: str, path: Path, quant: str, out: Path, samples: Path | None = None, **options) -> Outcome:
    from modelport.exporters.runtimes import onnxruntime as runtime

    work = out / "work"
    work.mkdir(parents=True)
    job = Job(
        (), kind, str(path), "server-cpu", "onnxruntime", quant, str(out), str(work),
        samples=str(samples) if samples else None, options=options,
    )  # fmt: skip
    return runtime.export(job, lambda stage, done, total: None)


@pytest.fixture(scope="module")
def float_files(folder: Path) -> dict[str, Path]:
    """Each network once through torch.onnx: what the schemes' tests start from, as an ONNX source."""
    made = {}
    for name in ("cnn", *networks()):
        out = folder / f"{name}-fp32"
        export(*source(folder, name), "fp32", out)
        made[name] = out / "model.onnx"
    return made


def quantize(
    float_files: dict[str, Path], name: str, quant: str, out: Path, **options
) -> tuple[Path, Outcome]:
    samples = {"bert": "text", "cnn": "input"}.get(name, "pixel_values")
    folder = float_files[name].parent.parent
    done = export("onnx", float_files[name], quant, out, folder / f"samples-{samples}", **options)
    return out / done.files[0], done


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def compare(float_files: dict[str, Path], name: str, path: Path) -> float:
    given = feed(name, 2)
    (expected,) = load(float_files[name], "onnx").run(given).values()
    (actual,) = load(path, "onnx").run(given).values()
    return cosine(expected, actual)


def optimized(path: Path, folder: Path) -> Counter[str]:
    """Operators of the graph that ONNX Runtime really executes."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(folder / "optimized.onnx")
    settings.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


# --- float -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "mobilenet", "resnet", "vit", "bert"])
@pytest.mark.parametrize("count", [1, 3])
def test_float_file_computes_what_the_source_computes_at_any_batch(
    folder: Path, float_files: dict[str, Path], name: str, count: int
) -> None:
    given = feed(name, count)
    expected = load_reference(*source(folder, name), {})(given)
    actual = load(float_files[name], "onnx").run(given)
    assert actual.keys() == expected.keys()
    for output, value in expected.items():
        np.testing.assert_allclose(actual[output], value, rtol=1e-3, atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize("length", [1, 5, 64])
def test_sequence_stays_free(folder: Path, float_files: dict[str, Path], length: int) -> None:
    given = feed("bert", 2, length)
    expected = load_reference("huggingface", folder / "bert", {})(given)["last_hidden_state"]
    actual = load(float_files["bert"], "onnx").run(given)["last_hidden_state"]
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_names_opset_and_route_are_told(folder: Path, tmp_path: Path) -> None:
    done = export("torch-exported", folder / "cnn.pt2", "fp32", tmp_path / "out", opset=18)
    assert done.files == ("model.onnx",)
    assert [(port.source, port.artifact) for port in done.inputs] == [("input", "input")]
    assert [(port.source, port.artifact) for port in done.outputs] == [("output_0", "output_0")]
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain] == [("", 18)]
    assert done.notes == ("torch.onnx.export, opset 18; free axes: batch.",)


def test_file_tells_nothing_about_this_machine(float_files: dict[str, Path]) -> None:
    for path in float_files.values():
        data = path.read_bytes()
        assert b"stack_trace" not in data
        assert str(Path(torch.__file__).parent).encode() not in data


def test_an_onnx_source_is_taken_as_it_is(float_files: dict[str, Path], tmp_path: Path) -> None:
    path, done = quantize(float_files, "cnn", "fp32", tmp_path / "out")
    assert onnx.load(path) == onnx.load(float_files["cnn"])
    assert done.notes == ("The ONNX graph was taken as it is (opset 21).",)


# --- half ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_half_file_is_half_as_large_and_nearly_exact(
    float_files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    path, _ = quantize(float_files, name, "fp16", tmp_path / "out")
    assert path.stat().st_size < 0.55 * float_files[name].stat().st_size
    counted = audit(path, "onnx")
    assert counted.weight_share(["float16"]) > 0.99
    assert set(counted.macs) == {"float32"}
    assert compare(float_files, name, path) > 0.99999


def test_a_weight_beyond_half_range_stays_float_and_is_named(
    float_files: dict[str, Path], tmp_path: Path
) -> None:
    model = onnx.load(float_files["cnn"])
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = 1e5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    (tmp_path / "in").mkdir()
    onnx.save(model, tmp_path / "in" / "model.onnx")
    done = export("onnx", tmp_path / "in" / "model.onnx", "fp16", tmp_path / "out")
    assert any(weight.name in note and "65504" in note for note in done.notes)
    (actual,) = load(tmp_path / "out" / "model.onnx", "onnx").run(feed("cnn", 1)).values()
    (expected,) = load(tmp_path / "in" / "model.onnx", "onnx").run(feed("cnn", 1)).values()
    np.testing.assert_allclose(actual, expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())


# --- static int8 -----------------------------------------------------------------------------------------


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


def test_static_int8_without_samples_says_how_to_give_them(
    float_files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--calibration: static int8 needs samples"):
        export("onnx", float_files["cnn"], "int8", tmp_path / "out")


# --- without calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_dynamic_int8_reaches_weights_and_products(
    float_files: dict[str, Path], tmp_path: Path, name: str
) -> None:
    path, _ = quantize(float_files, name, "int8-dynamic", tmp_path / "out")
    counted = audit(path, "onnx")
    assert counted.weight_share(["int8"]) > 0.9
    products = 2 * 2 if name == "bert" else 3 * 2 + 1  # of attention, and the patches' convolution
    assert len(counted.float_ops) == products
    assert compare(float_files, name, path) > 0.995


def test_int4_reaches_products_and_tables(float_files: dict[str, Path], tmp_path: Path) -> None:
    path, _ = quantize(float_files, "bert", "int4-weight", tmp_path / "out")
    counted = audit(path, "onnx")
    assert counted.weight_share(["int4", "uint4"]) > 0.85
    assert counted.operators["com.microsoft::MatMulNBits"] == 12
    assert counted.operators["com.microsoft::GatherBlockQuantized"] == 3
    assert compare(float_files, "bert", path) > 0.97


def test_a_linear_layer_at_rank_2_is_quantized_too(tmp_path: Path) -> None:
    """torch writes it as Gemm, which ONNX Runtime's weight quantizers pass over."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 32)).eval()
    torch.export.save(torch.export.export(net, (torch.randn(2, 64),)), tmp_path / "net.pt2")
    given = torch.randn(2, 64)
    for quant, share in (("int4-weight", ["int4"]), ("int8-dynamic", ["int8"])):
        export("torch-exported", tmp_path / "net.pt2", quant, tmp_path / quant)
        path = tmp_path / quant / "model.onnx"
        counted = audit(path, "onnx")
        assert counted.weight_share(share) > 0.85
        (actual,) = load(path, "onnx").run({"input": given.numpy()}).values()
        assert cosine(actual, net(given).detach().numpy()) > 0.97


@pytest.mark.parametrize("quant", ["int8-dynamic", "int4-weight"])
def test_schemes_that_pass_over_convolutions_refuse_networks_made_of_them(
    float_files: dict[str, Path], tmp_path: Path, quant: str
) -> None:
    with pytest.raises(Unsupported, match=rf"--quant {quant}: .* 99% .* Conv\. The nearest .* int8"):
        quantize(float_files, "mobilenet", quant, tmp_path / "out")


@pytest.mark.parametrize("quant", ["int8", "int8-dynamic", "int4-weight"])
def test_no_integer_scheme_is_offered_for_a_recurrent_network(tmp_path: Path, quant: str) -> None:
    net = torch.nn.LSTM(8, 64, batch_first=True).eval()
    torch.onnx.export(net, (torch.randn(1, 4, 8),), tmp_path / "net.onnx", dynamo=True, verbose=False)
    with pytest.raises(Unsupported, match=rf"{quant} would leave .*LSTM.* The nearest .* fp16"):
        export("onnx", tmp_path / "net.onnx", quant, tmp_path / "out")


def test_an_old_opset_is_raised_where_the_scheme_needs_it(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["h"]), onnx.helper.make_node("Squeeze", ["h"], ["y"], axes=[0])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 2, 64])],
        [onnx.helper.make_tensor_value_info("y", 1, [2, 8])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 11)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=6), tmp_path / "old.onnx")
    given = np.random.default_rng(1).normal(size=(1, 2, 64)).astype(np.float32)
    write_set(tmp_path / "samples" / "calibration", {"x": given})
    for quant in ("int8", "int8-dynamic", "int4-weight", "fp16"):
        export("onnx", tmp_path / "old.onnx", quant, tmp_path / quant, tmp_path / "samples")
        actual = load(tmp_path / quant / "model.onnx", "onnx").run({"x": given})["y"]
        assert cosine(actual, given[0] @ weight) > 0.98


# --- every scheme ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quant", ["fp32", "fp16", "int8", "int8-dynamic", "int4-weight"])
def test_weights_of_large_models_lie_outside_the_file(
    float_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant: str
) -> None:
    from modelport.exporters.runtimes.onnxruntime import files

    inside, _ = quantize(float_files, "bert", quant, tmp_path / "inside")
    monkeypatch.setattr(files, "LARGEST_FILE", 10_000)
    outside, done = quantize(float_files, "bert", quant, tmp_path / "outside")
    assert done.files == ("model.onnx", "model.onnx.data")
    assert outside.stat().st_size < inside.stat().st_size / 2
    given = feed("bert", 2)
    for expected, actual in zip(
        load(inside, "onnx").run(given).values(), load(outside, "onnx").run(given).values(), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


def test_external_data_of_a_source_is_read(float_files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    onnx.save(
        onnx.load(float_files["bert"]),
        tmp_path / "in" / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    export("onnx", tmp_path / "in" / "model.onnx", "int8-dynamic", tmp_path / "out")
    assert compare(float_files, "bert", tmp_path / "out" / "model.onnx") > 0.99


CONVERT = """
import sys
from pathlib import Path
from modelport.exporters.job import Job
from modelport.exporters.runtimes import onnxruntime
out, samples, *work = sys.argv[1:]
for kind, path, quant in zip(work[::3], work[1::3], work[2::3]):
    folder = Path(out) / quant
    (folder / "work").mkdir(parents=True)
    job = Job((), kind, path, "server-cpu", "onnxruntime", quant, str(folder), str(folder / "work"), samples)
    onnxruntime.export(job, lambda *stage: None)
"""


def test_two_processes_write_the_same_bytes(
    folder: Path, float_files: dict[str, Path], tmp_path: Path
) -> None:
    quants = ("int8", "int8-dynamic", "int4-weight", "fp16")
    work = [part for quant in quants for part in ("onnx", str(float_files["bert"]), quant)]
    work += ["torch-exported", str(folder / "cnn.pt2"), "fp32"]
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", CONVERT, str(tmp_path / seed), str(folder / "samples-text"), *work],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
        )
    for quant in (*quants, "fp32"):
        files = [(tmp_path / seed / quant / "model.onnx").read_bytes() for seed in ("1", "2")]
        assert files[0] == files[1], quant


def test_nan_in_an_onnx_weight_is_refused_by_name(float_files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(float_files["cnn"])
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[5] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(SourceUnreadable, match=rf"initializer {weight.name}: 1 of"):
        export("onnx", tmp_path / "model.onnx", "fp32", tmp_path / "out")
    with pytest.raises(SourceUnreadable, match=rf"initializer {weight.name}: 1 of"):
        load_reference("onnx", tmp_path / "model.onnx", {})


def test_a_quantized_source_is_not_quantized_again(float_files: dict[str, Path], tmp_path: Path) -> None:
    path, _ = quantize(float_files, "cnn", "int8", tmp_path / "first")
    with pytest.raises(Unsupported, match=r"quantized already: it has DequantizeLinear, QuantizeLinear"):
        export("onnx", path, "int8-dynamic", tmp_path / "second")


def test_a_half_source_is_not_quantized(float_files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(float_files["bert"])
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(Unsupported, match=r"the weight is float16.*Export the model in float32"):
        export("onnx", tmp_path / "model.onnx", "int8-dynamic", tmp_path / "out")


def test_an_unknown_scheme_names_the_known_ones(float_files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"no scheme 'int3'.*int8-dynamic"):
        quantize(float_files, "cnn", "int3", tmp_path / "out")


def test_an_operator_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.eigvalsh(x)

    torch.export.save(torch.export.export(Odd(), (torch.eye(3),)), tmp_path / "odd.pt2")
    with pytest.raises(Unsupported, match=r"no ONNX form at opset 21 for aten\._?linalg_eigh"):
        export("torch-exported", tmp_path / "odd.pt2", "fp32", tmp_path / "out")
