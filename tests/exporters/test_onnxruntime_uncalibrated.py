"""The server-cpu schemes that need no samples reach every weight they claim, at any rank and from an old opset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.calibration.samples import write_set
from modelport.verification.audit import audit
from modelport.verification.runners import load
from onnxruntime_jobs import compare, cosine, export, quantize

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")
torch: Any = pytest.importorskip("torch")


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
