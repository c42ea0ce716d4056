"""cloud-tpu from a program to files that run: on one device and over a mesh of eight, checked and checked again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import modelport
from modelport.targets.errors import UsageError
from stablehlo_jobs import write_program

pytestmark = pytest.mark.slow
pytest.importorskip("jax")


class Wide(nn.Module):
    """Two layers whose weights are worth splitting."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(64, 512), nn.Linear(512, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


def test_a_program_over_eight_devices_is_split_and_computes_the_same(tmp_path: Path) -> None:
    path = write_program(tmp_path / "wide.pt2", Wide(), [torch.randn(2, 64)], {0: "batch"})
    out = tmp_path / "out"
    done = modelport.convert(
        path, target="cloud-tpu", quant="fp32", mesh="data=4,model=2", out=out, samples=10
    )
    (figures,) = done.manifest["fidelity"]["outputs"].values()
    assert figures["cosine_min"] > 0.999999
    assert done.manifest["audit"]["macs"] == {"float32": 2 * 64 * 512}
    assert any("8 devices" in note for note in done.manifest["notes"])
    assert modelport.verify(out)["fidelity"]["samples"] == done.manifest["fidelity"]["samples"]
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import load, numpy as np\n"
        "print({n: str(tuple(w.sharding.spec)) for n, w in load.weights.items()})\n"
        "out = load.model(**np.load(sys.argv[2]))['output_0']\n"
        "np.save(sys.argv[3], out); print(len(out.sharding.device_set))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(out), str(tmp_path / "in.npz"), str(tmp_path / "out.npy")],
        capture_output=True, text=True, timeout=600,
        env={
            **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"
        },
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "'up.weight': \"('model',)\"" in ran.stdout
    assert "'down.weight': \"(None, 'model')\"" in ran.stdout
    assert ran.stdout.strip().endswith("8")
    expected = Wide()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_that_the_source_fixes_is_not_split(tmp_path: Path) -> None:
    path = write_program(tmp_path / "wide.pt2", Wide(), [torch.randn(1, 64)])
    with pytest.raises(UsageError, match="fixed at 1"):
        modelport.convert(path, target="cloud-tpu", mesh="data=4", out=tmp_path / "out", samples=10)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="not understood"):
        modelport.convert(path, target="cloud-tpu", mesh="4x2", out=tmp_path / "out")


def test_onnx_and_bfloat16_by_default(digits: Path, tmp_path: Path) -> None:
    done = modelport.convert(digits / "digits.onnx", target="tpu", out=tmp_path / "out", samples=20)
    assert done.manifest["quant"] == "bf16"
    (figures,) = done.manifest["fidelity"]["outputs"].values()
    assert figures["cosine_min"] > 0.999
    assert done.manifest["audit"]["asked"]["weight_share"] > 0.95
    assert done.manifest["measured"]["latency_ms"] is None, "a CPU says nothing of a TPU's speed"
    assert "CPU" in done.manifest["proof"]
    assert {"model.stablehlo", "weights.safetensors", "load.py", "README.md"} <= {
        file["path"] for file in done.manifest["files"]
    }
