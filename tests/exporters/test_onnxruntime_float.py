"""The server-cpu exporter's float and half files compute what their source computes, whatever its free sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.sources.loading.reference import load_reference
from modelport.verification.audit import audit
from modelport.verification.runners import load
from onnxruntime_jobs import compare, export, feed, quantize, source

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")
torch: Any = pytest.importorskip("torch")


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
