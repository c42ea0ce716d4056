"""Core ML packages: counted as by hand, run as torch runs them, never passed where an operator is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coreml_packages
from modelport.mil.package import Feature
from modelport.verification import audit, runners
from modelport.verification.audit.rule import shares
from modelport.verification.fidelity import sqnr_db
from modelport.verification.runners import mlpackage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return coreml_packages.write(tmp_path_factory.mktemp("packages"))


@pytest.mark.parametrize(("name", "dtype", "width"), [("fp32", "float32", 4), ("fp16", "float16", 2)])
def test_every_weight_and_product_of_a_float_program_is_counted(packages, name, dtype, width):
    counted = audit.audit(packages[name], "mlpackage")
    assert counted.weight_bytes == {dtype: width * coreml_packages.WEIGHTS}
    assert counted.macs == {dtype: coreml_packages.MACS}
    assert counted.operators["conv"] == 2
    assert len(counted.float_ops) == 4
    assert counted.file_bytes == sum(
        file.stat().st_size for file in packages[name].rglob("*") if file.is_file()
    )


@pytest.mark.parametrize(
    ("name", "dtype", "bits", "elements"),
    # The first convolution's rows of 9 and the second's of 16 channels hold no block of 32.
    [("int8-weight", "int8", 8, 13_584), ("palette4", "uint4", 4, 13_584), ("int4-weight", "int4", 4, 8_832)],
)
def test_expanded_weights_count_as_they_are_stored(packages, name, dtype, bits, elements):
    counted = audit.audit(packages[name], "mlpackage")
    assert counted.weight_bytes[dtype] == elements * bits // 8
    assert counted.weight_bytes["float16"] == 2 * (coreml_packages.WEIGHTS - elements)
    assert counted.macs == {"float16": coreml_packages.MACS}
    held = shares(counted, dtype, "float16")
    assert held.weights == counted.weight_share([dtype])
    assert [op.partition(" ")[0] for op in counted.float_ops] == (
        ["conv", "conv"] if bits == 4 and dtype == "int4" else []
    )


def test_products_of_quantized_sides_count_as_int8(tmp_path):
    def build(mb: Any, x: Any) -> Any:
        def through(value: Any) -> Any:
            q = mb.quantize(input=value, scale=np.float32(0.1), output_dtype="int8")
            return mb.dequantize(input=q, scale=np.float32(0.1))

        narrow = np.ones((4, 8), np.int8)
        weight = mb.constexpr_affine_dequantize(
            quantized_data=narrow, zero_point=np.int8(0), scale=np.float32(0.1), axis=0
        )
        inner = mb.linear(x=through(x), weight=weight)
        return mb.linear(x=inner, weight=np.ones((16, 4), np.float32))

    path = coreml_packages.program(tmp_path / "w8a8.mlpackage", build, {"x": (2, 8)})
    counted = audit.audit(path, "mlpackage")
    assert counted.macs == {"int8": 2 * 4 * 8, "float32": 2 * 16 * 4}
    # coremltools writes a bias of zeros where there is none.
    assert counted.weight_bytes == {"int8": 32, "float32": 4 * (16 * 4 + 16 + 4)}
    assert [op.partition(" ")[0] for op in counted.float_ops] == ["linear"]


def test_products_without_weights_and_recurrent_layers_are_counted(tmp_path):
    hidden, features, steps = 3, 5, 7

    def build(mb: Any, x: Any) -> Any:
        weight_ih, weight_hh = (
            np.ones((4 * hidden, features), np.float32),
            np.ones((4 * hidden, hidden), np.float32),
        )
        zero = np.zeros((1, hidden), np.float32)
        out = mb.lstm(
            x=x,
            initial_h=zero,
            initial_c=zero,
            weight_ih=weight_ih,
            weight_hh=weight_hh,
            output_sequence=True,
        )[0]
        flat = mb.reshape(x=out, shape=(steps, hidden))
        return mb.matmul(x=flat, y=flat, transpose_x=True)

    path = coreml_packages.program(tmp_path / "lstm.mlpackage", build, {"x": (steps, 1, features)})
    counted = audit.audit(path, "mlpackage")
    recurrent = steps * (4 * hidden * features + 4 * hidden * hidden)
    assert counted.macs == {"float32": recurrent + hidden * hidden * steps}


@pytest.mark.parametrize(
    ("name", "least_db"), [("fp32", 100), ("fp16", 50), ("int8-weight", 30), ("int4-weight", 12)]
)
def test_the_runner_gives_what_torch_gives(packages, name, least_db):
    import torch

    image = np.random.default_rng(0).normal(size=coreml_packages.SHAPE).astype(np.float32)
    with torch.no_grad():
        expected = coreml_packages.network()(torch.from_numpy(image)).numpy()
    runner = runners.load(packages[name], "mlpackage")
    assert (runner.inputs, runner.outputs, runner.free_sequence) == (("image",), ("logits",), False)
    assert sqnr_db(expected, runner.run({"image": image})["logits"]) >= least_db
    assert "not Apple's kernels" in runner.proof
    runner.invoke()


def test_an_unknown_operator_is_not_checked_and_never_passed(packages, monkeypatch):
    from modelport.mil.ops import OPS

    monkeypatch.delitem(OPS, "max_pool")
    with pytest.raises(runners.NotChecked, match=r"^op max_pool$"):
        runners.load(packages["fp32"], "mlpackage")


def test_token_inputs_are_free_where_they_take_any_length_from_one_on():
    def token(*ranges: tuple[int, int | None]) -> Feature:
        return Feature("ids", "array", "int32", (1, 8), (), ranges)

    assert mlpackage.free_sequence([token((1, 1), (1, 512)), Feature("x", "array", "fp32", (1, 3))])
    assert mlpackage.free_sequence([token((1, 1), (1, None))])
    assert not mlpackage.free_sequence([token()])
    assert not mlpackage.free_sequence([token((1, 1), (8, 512))])
    assert not mlpackage.free_sequence([token((1, 1), (1, 512)), token()])
    assert not mlpackage.free_sequence([])


def test_core_ml_gets_arrays_of_its_dtypes_and_images_of_8_bits():
    values = np.array([[[[0.4, 300.0]], [[1.6, -5.0]], [[2.0, 7.0]]]], np.float32)
    ids = mlpackage.as_value(Feature("ids", "array", "int32", (1, 2)), np.array([[1, 2]], np.int64))
    assert ids.dtype == np.int32
    image = mlpackage.as_value(Feature("image", "image", "RGB", (1, 2)), values)
    assert np.asarray(image).tolist() == [[[0, 2, 2], [255, 0, 7]]]
    flipped = mlpackage.as_value(Feature("image", "image", "BGR", (1, 2)), values)
    assert np.asarray(flipped).tolist() == [[[2, 2, 0], [7, 0, 255]]]
    grey = mlpackage.as_value(Feature("image", "image", "grayscale", (1, 2)), values[:, :1])
    assert np.asarray(grey).tolist() == [[0, 255]]
    assert mlpackage.as_array({"cat": 0.25, "dog": 0.75}).tolist() == [0.25, 0.75]
    assert mlpackage.as_array(np.ones(2, np.float16)).dtype == np.float32
