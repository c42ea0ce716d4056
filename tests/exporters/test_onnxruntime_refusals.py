"""What the server-cpu exporter cannot do is refused by name: a scheme, an operator, missing samples, unfit weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.sources.loading.reference import load_reference
from modelport.targets.errors import SourceUnreadable, Unsupported, UsageError
from onnxruntime_jobs import export, quantize

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")
torch: Any = pytest.importorskip("torch")


def test_static_int8_without_samples_says_how_to_give_them(
    float_files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--calibration: static int8 needs samples"):
        export("onnx", float_files["cnn"], "int8", tmp_path / "out")


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
