"""Compressed weights of every form that coremltools writes, against coremltools' own decompression of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mil_packages as made
from modelport.mil.evaluate import Evaluator
from modelport.mil.package import open_package

pytestmark = pytest.mark.slow

X = np.random.default_rng(5).standard_normal((1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """A small network in float16 for iOS16 and iOS18, not yet compressed."""
    import coremltools as ct

    torch.manual_seed(5)
    nn = torch.nn
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(32 * 36, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    traced = torch.jit.trace(net, torch.from_numpy(X))
    return {
        target: made.converted(
            traced, target, half=True, inputs=[ct.TensorType("x", X.shape)], outputs=[ct.TensorType("y")]
        )
        for target in ("iOS16", "iOS18")
    }


def linear(model: Any, **settings: Any) -> Any:
    import coremltools.optimize.coreml as cto

    joint = settings.pop("joint_compression", False)
    config = cto.OpLinearQuantizerConfig(weight_threshold=16, **settings)
    return cto.linear_quantize_weights(model, cto.OptimizationConfig(config), joint_compression=joint)


def palette(model: Any, **settings: Any) -> Any:
    import coremltools.optimize.coreml as cto

    joint = settings.pop("joint_compression", False)
    config = cto.OpPalettizerConfig(mode="uniform", weight_threshold=16, **settings)
    return cto.palettize_weights(model, cto.OptimizationConfig(config), joint_compression=joint)


def sparse(model: Any) -> Any:
    import coremltools.optimize.coreml as cto

    config = cto.OpMagnitudePrunerConfig(weight_threshold=16, target_sparsity=0.5)
    return cto.prune_weights(model, cto.OptimizationConfig(config))


FORMS: dict[str, tuple[str, Callable[[Any], Any], set[str]]] = {
    "int8": ("iOS16", lambda m: linear(m, mode="linear_symmetric"), {"affine_dequantize"}),
    "uint8 with zero points": ("iOS16", lambda m: linear(m, mode="linear", dtype="uint8"), {"affine_dequantize"}),
    "palette of 16": ("iOS16", lambda m: palette(m, nbits=4), {"lut_to_dense"}),
    "sparse": ("iOS16", sparse, {"sparse_to_dense"}),
    "int8 for iOS18": ("iOS18", lambda m: linear(m, mode="linear_symmetric"), {"blockwise_shift_scale"}),
    "int4 in blocks": (
        "iOS18",
        lambda m: linear(m, mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=8),
        {"blockwise_shift_scale"},
    ),
    "uint4 with zero points": (
        "iOS18", lambda m: linear(m, mode="linear", dtype="uint4"), {"blockwise_shift_scale"},
    ),
    "palettes of 8 in groups": (
        "iOS18", lambda m: palette(m, nbits=3, granularity="per_grouped_channel", group_size=8), {"lut_to_dense"},
    ),
    "palette of 64 with scales": (
        "iOS18",
        lambda m: palette(m, nbits=6, enable_per_channel_scale=True),
        {"lut_to_dense", "blockwise_shift_scale"},
    ),
    "palette of 2": ("iOS18", lambda m: palette(m, nbits=1), {"lut_to_dense"}),
    "sparse int8": (
        "iOS18",
        lambda m: linear(sparse(m), mode="linear_symmetric", joint_compression=True),
        {"sparse_blockwise_shift_scale", "sparse_to_dense"},
    ),
    "sparse palette": (
        "iOS18",
        lambda m: palette(sparse(m), nbits=4, joint_compression=True),
        {"lut_to_sparse", "sparse_to_dense"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_compressed_weights_are_what_coremltools_decompresses(
    tmp_path: Path, models: dict[str, Any], form: str
) -> None:
    import coremltools.optimize.coreml as cto

    target, compress, operators = FORMS[form]
    model = compress(models[target])
    model.save(str(tmp_path / "small.mlpackage"))
    cto.decompress_weights(model).save(str(tmp_path / "whole.mlpackage"))
    small, whole = (open_package(tmp_path / f"{name}.mlpackage").program for name in ("small", "whole"))
    kinds = {
        op.type.removeprefix("constexpr_") for op in small.main.block.operations if "constexpr" in op.type
    }
    assert kinds == operators
    found, expected = (Evaluator(program).run({"x": X})["y"] for program in (small, whole))
    assert np.abs(expected).max() > 0
    assert np.array_equal(found, expected)
