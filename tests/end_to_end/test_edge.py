"""A model on its way to a microcontroller: published with its arena, refused where it does not fit, verified again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import modelport
from modelport.targets.errors import DoesNotFit, Unsupported, UsageError

ROOT = Path(__file__).resolve().parents[2]
BOARD = """
[tiny]
title = "A tiny board"
class = "mcu"
memory_bytes = {ram}
flash_bytes = 262144
core = "cortex-m4"
clock_hz = 6.4e07
estimates = ["memory_bytes", "flash_bytes", "clock_hz"]
"""


def board(folder: Path, ram: int) -> str:
    path = folder / f"board-{ram}.toml"
    path.write_text(BOARD.format(ram=ram))
    return str(path)


@pytest.fixture(scope="module")
def published(tmp_path_factory, digits):
    out = tmp_path_factory.mktemp("edge") / "out"
    return modelport.convert(
        digits / "digits.pt2", target="edge", device="nrf52840", quant="int8",
        calibration=str(digits / "images"), out=out,
    )  # fmt: skip


@pytest.mark.slow
def test_the_manifest_and_the_report_have_the_arena(published):
    arena = published.manifest["arena"]
    assert arena["bytes"] + arena["headroom_bytes"] == arena["ram_bytes"] == int(262144 * 0.7)
    assert arena["flash"] == published.manifest["measured"]["file_bytes"] + arena["code"]
    assert "operator" in arena["peak"]
    assert published.manifest["measured"]["latency_ms"] is None
    assert "reference kernels" in published.manifest["proof"]
    report = (published.out / "report.html").read_text()
    assert f"arena {arena['bytes']:,} B" in report
    assert "main.cc" in [file["path"] for file in published.manifest["files"]]
    assert published.manifest["fidelity"]["outputs"]["output_0"]["top1_agreement"] >= 0.98


@pytest.mark.slow
def test_the_folder_verifies_again_with_the_reference_kernels(published):
    again = modelport.verify(published.out)
    assert again["fidelity"] == published.manifest["fidelity"]
    assert again["proof"] == published.manifest["proof"]


@pytest.mark.slow
def test_what_does_not_fit_to_the_byte_is_not_published(published, digits, tmp_path):
    # A card whose estimate knows nothing of the arena's tail lets it pass; the file itself does not fit.
    needed = published.manifest["arena"]["bytes"]
    device = board(tmp_path, needed - 1)
    card = (ROOT / "targets" / "catalog" / "edge.toml").read_text()
    blind = tmp_path / "blind.toml"
    blind.write_text(
        re.sub(r"(memory_bytes\w*) = \d+", r"\1 = 0", card).replace(
            'aliases = ["mcu", "tflite-micro", "tflm"]', ""
        )
    )
    out = tmp_path / "out"
    options = {"target": str(blind), "quant": "int8", "device": device, "calibration": str(digits / "images")}
    with pytest.raises(DoesNotFit) as refused:
        modelport.convert(digits / "digits.pt2", out=out, **options)
    assert not out.exists()
    assert f"the arena takes {needed:,} B, and tiny has {needed - 1:,} B" in str(refused.value)
    assert "MAX_POOL_2D" in str(refused.value)
    assert "--fit" in refused.value.mend
    done = modelport.convert(digits / "digits.pt2", out=out, force=True, **options)
    assert done.manifest["arena"]["headroom_bytes"] == -1


def test_options_of_other_targets_and_missing_data_are_said_at_once(tmp_path):
    with pytest.raises(UsageError, match="--fit"):
        modelport.convert(tmp_path / "absent.onnx", target="server-cpu", fit=True)
    with pytest.raises(UsageError, match="--opset"):
        modelport.convert(tmp_path / "absent.pt2", target="edge", opset=17)


@pytest.mark.skipif(shutil.which("modelport") is None, reason="the command is not on the path")
@pytest.mark.slow
def test_a_mobilenet_is_refused_in_under_a_second_with_peak_and_advice(tmp_path):
    code = (
        "import sys, torch, transformers as tf; torch.manual_seed(0);"
        "tf.MobileNetV2ForImageClassification(tf.MobileNetV2Config()).eval().save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "net")], check=True, capture_output=True)
    done = subprocess.run(
        ["modelport", "check", str(tmp_path / "net"), "--target", "edge", "--device", "nrf52840", "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3
    verdict = json.loads(done.stdout)
    assert "expand_1x1" in verdict["reasons"][0]
    assert "conv_3x3" in verdict["reasons"][0]
    assert "instead of 224 x 224" in verdict["advice"][0]


@pytest.mark.slow
def test_an_operator_that_no_kernel_computes_is_refused_before_anything_is_loaded(tmp_path):
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU()).eval()
    torch.export.save(torch.export.export(net, (torch.randn(1, 4),)), tmp_path / "gelu.pt2")
    with pytest.raises(Unsupported, match=r"gelu"):
        modelport.check(tmp_path / "gelu.pt2", target="edge")
