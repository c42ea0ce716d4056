"""What the server-cpu exporter writes: weights beside a file that is too large, and the same bytes each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelport.verification.runners import load
from onnxruntime_jobs import compare, export, feed, quantize

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize("quant", ["fp32", "fp16", "int8", "int8-dynamic", "int4-weight"])
def test_weights_of_large_models_lie_outside_the_file(
    float_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant: str
) -> None:
    from modelport.exporters.onnx import files

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
