"""server-gpu from the model to the engine: a bundle on a machine without a GPU, finished on one that has it."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime")
pytest.importorskip("torch")

import modelport  # noqa: E402
from modelport import recheck  # noqa: E402
from modelport.exporters import isolate  # noqa: E402
from modelport.exporters.job import Job, Outcome  # noqa: E402
from modelport.reports import engine as doctor  # noqa: E402
from modelport.targets.errors import FidelityBelowBudget, Unsupported  # noqa: E402
from tensorrt_double import Double, install  # noqa: E402


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line."""
    command = str(Path(sys.executable).parent / "modelport")
    return subprocess.run([command, *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def bundle(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits in int8, converted here, where there is neither TensorRT nor a GPU."""
    out = tmp_path_factory.mktemp("bundle") / "out"
    modelport.convert(
        digits / "digits.pt2", target="server-gpu", quant="int8", calibration=str(digits / "images"), out=out,
        shapes="image=1x1x8x8..16x1x8x8..64x1x8x8", workspace=1 << 30, timing_cache="timing.cache", builder_level=4,
    )  # fmt: skip
    return out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    """This process has the double, and workers run in it: a double cannot follow into another process."""
    monkeypatch.chdir(tmp_path)  # the timing cache lies where `finish` is called
    double = Double()
    install(monkeypatch, double)

    def run(job: Job, **options: Any) -> isolate.Finished:
        done = isolate.Finished()
        for step in job.steps:
            module, _, name = step.partition(":")
            work: Callable[[Job, Any], Outcome] = getattr(
                importlib.import_module(f"modelport{module}" if module.startswith(".") else module), name
            )
            done[step] = Outcome.from_json(work(job, lambda *stage: None).to_json())
        return done

    monkeypatch.setattr(isolate, "run", run)
    return double


def copied(bundle: Path, folder: Path) -> Path:
    """A bundle of one's own."""
    return Path(shutil.copytree(bundle, folder / "copy"))


def test_without_a_gpu_the_bundle_awaits_one_and_says_so(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["state"], manifest["artifact"]) == ("awaiting tensorrt", "model.onnx")
    assert {"model.onnx", "build.toml"} <= {entry["path"] for entry in manifest["files"]}
    assert (bundle / "verification" / "reference.npz").is_file()
    assert manifest["measured"]["latency_ms"] is None  # nothing that was measured here is the engine's
    assert "TensorRT has not run" in manifest["proof"]
    (figures,) = manifest["fidelity"]["outputs"].values()
    assert figures["cosine"] > 0.999
    assert manifest["audit"]["int8_mac_share"] == 1.0
    assert manifest["audit"]["broken"] == []
    lines = dict(manifest["run"])
    assert "--optShapes=image:16x1x8x8" in lines["trtexec"]
    assert "trtexec" in (bundle / "report.html").read_text()


def test_a_bundle_is_verified_as_far_as_it_can_be(bundle: Path) -> None:
    done = run("verify", str(bundle))
    assert done.returncode == 0, done.stderr
    assert "awaiting tensorrt" in done.stdout


def test_finishing_it_here_is_one_clear_line(bundle: Path) -> None:
    done = run("finish", str(bundle))
    assert done.returncode == 2
    assert "needs tensorrt" in done.stderr
    assert "modelport[server-gpu]" in done.stderr
    assert json.loads((bundle / "manifest.json").read_text())["state"] == "awaiting tensorrt"


def test_on_the_gpu_host_it_becomes_an_engine_that_was_verified(
    here: Double, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(bundle, tmp_path)
    manifest = recheck.finish(folder)
    assert (manifest["state"], manifest["artifact"]) == ("done", "model.engine")
    (asked, cache) = here.asked[0]
    assert (asked.workspace_bytes, asked.level, cache) == (1 << 30, 4, b"")
    assert (tmp_path / "timing.cache").read_bytes() == b"kernels"
    assert manifest["portability"]["compute_capability"] == "8.9"
    assert manifest["measured"]["latency_ms"]["p50"] > 0
    assert manifest["proof"] is None
    (figures,) = manifest["fidelity"]["outputs"].values()
    assert figures["cosine"] > 0.999
    assert recheck.verify(folder)["fidelity"]["samples"] == manifest["fidelity"]["samples"]
    monkeypatch.setattr(doctor, "_installed", lambda: "10.3.0.26")
    assert doctor.examine(folder / "model.engine")["loads"] == "yes"
    assert len(here.asked) == 1
    recheck.finish(folder)
    assert len(here.asked) == 1
    recheck.finish(folder, rebuild=True)
    assert here.asked[1][1] == b"kernels"


def test_an_engine_that_computes_something_else_is_not_published(
    here: Double, bundle: Path, tmp_path: Path
) -> None:
    folder = copied(bundle, tmp_path)
    here.spoil = 1000.0
    with pytest.raises(FidelityBelowBudget):
        recheck.finish(folder)
    assert json.loads((folder / "manifest.json").read_text())["state"] == "awaiting tensorrt"
    assert not (folder / "model.engine").exists()


def test_with_a_gpu_convert_builds_at_once(here: Double, digits: Path, tmp_path: Path) -> None:
    from modelport.exporters.runtimes import tensorrt

    job = Job(
        (),
        "onnx",
        str(digits / "digits.onnx"),
        "server-gpu",
        "tensorrt",
        "fp32",
        str(tmp_path),
        str(tmp_path),
    )
    done = tensorrt.export(job, lambda *stage: None)
    assert done.files[0] == "model.engine"
    assert "state" not in done.data
    assert done.data["portability"]["tensorrt"] == "10.3.0.26"


def test_a_graph_that_breaks_a_rule_is_refused(bundle: Path, tmp_path: Path) -> None:
    import onnx

    from modelport.reports import manifest as manifests

    folder = copied(bundle, tmp_path)
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "modelport_zero":
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, (), b"\3", raw=True))
    onnx.save(model, folder / "model.onnx")
    found = manifests.read(folder)
    found["files"] = manifests.file_entries(folder)
    manifests.write(folder, found)
    with pytest.raises(Unsupported, match="zero point: QuantizeLinear"):
        recheck.verify(folder, budget="cosine=-1")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--builder-level", "9"), 2, "--builder-level"),
        (("--shapes", "image=1x1x8"), 2, "4 axes, not 3"),
        (("--shapes", "other=1x1"), 2, "no input other"),
        (("--hardware-compatible", "volta"), 2, "ampere-plus"),
        (("--workspace", "many"), 2, "--workspace"),
        (("--layout", "nhwc"), 2, "--layout"),
        (("--quant", "int4"), 2, "int8"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    digits: Path, tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    out = tmp_path / "out"
    done = run("convert", str(digits / "digits.onnx"), "--target", "server-gpu", "--out", str(out), *words)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []
