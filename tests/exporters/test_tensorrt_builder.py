"""The one file that calls TensorRT: every name in it is one of the real bindings, and what stands around it works."""

from __future__ import annotations

import ast
import dataclasses
import functools
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_oracle import cache
from modelport.exporters.runtimes.tensorrt import build_file, builder, engine
from modelport.exporters.runtimes.tensorrt.options import Profile, Settings
from modelport.targets.errors import ConversionFailed, MissingExtra, Unsupported

pytestmark = pytest.mark.slow
SOURCE = Path(builder.__file__)
TENSORRT = SOURCE.parent

OWN = {"_trt", "_said", "_logger", "_runtime", "_engine", "_context", "_configure", "_failed", "inputs", "outputs",
       "items", "join", "fromkeys", "append", "util", "find_spec", "version", "level", "workspace_bytes", "profiles",
       "version_compatible", "hardware_compatible", "least", "best", "most", "__name__"}  # fmt: skip
"""Attributes in that file that are Python's, or modelport's own."""


@functools.cache
def bindings() -> bytes:
    """All bytes of the tensorrt-cu13-bindings wheel, fetched once; it is read and never imported."""
    kept = cache() / "tensorrt-bindings"
    if not list(kept.glob("*.whl")):
        kept.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "tensorrt-cu13-bindings"],
            cwd=kept, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"pip could not fetch tensorrt-cu13-bindings: {done.stderr[-300:]}")
    with zipfile.ZipFile(max(kept.glob("*.whl"))) as wheel:
        return b"\0".join(
            wheel.read(name) for name in wheel.namelist() if name.endswith((".so", ".py", ".pyd"))
        )


def names() -> set[str]:
    """Every attribute in the file, and every argument given by name, that is not modelport's own."""
    found = {node.attr for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.Attribute)}
    return found - OWN


def test_every_name_of_tensorrt_is_in_its_bindings() -> None:
    known = bindings()
    assert {"parse_from_file", "build_serialized_network", "execute_async_v3"} <= names()
    # A name is a C string of the library, or a word of its Python part (nptype, __version__).
    missing = [
        name
        for name in sorted(names())
        if f"{name}\0".encode() not in known
        and f"def {name}(".encode() not in known
        and name != "__version__"
    ]
    assert missing == []


def test_a_wrong_name_would_be_found() -> None:
    assert b"build_serialised_network\0" not in bindings()
    assert b"FP16\0" not in bindings()  # a builder flag of TensorRT 10 that 11 has no more


def test_nothing_else_imports_tensorrt() -> None:
    root = TENSORRT.parents[2]
    rooms = ("targets", "sources", "calibration", "exporters", "verification", "reports")
    for path in (path for room in rooms for path in (root / room).rglob("*.py") if path != SOURCE):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert all(alias.name.partition(".")[0] != "tensorrt" for alias in node.names), path
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").partition(".")[0] != "tensorrt", path


onnx = pytest.importorskip("onnx")

from tensorrt_double import DEVICE, Double, install  # noqa: E402
from tensorrt_graphs import write  # noqa: E402

PROFILE = {"x": Profile((1, 4, 4, 4), (2, 4, 4, 4), (8, 4, 4, 4))}


def test_the_doubles_are_what_the_interface_asks_for() -> None:
    for double, protocol in ((Double(), builder.TensorRT), (Double, builder.TensorRT)):
        for name in ("build", "load", "version"):
            assert hasattr(double, name), (protocol, name)
    for name in ("build", "load"):
        asked = {a.arg for a in _arguments(builder, "TensorRT", name)}
        assert asked == {a.arg for a in _arguments(sys.modules[Double.__module__], "Double", name)}


def _arguments(module: Any, kind: str, name: str) -> list[ast.arg]:
    tree = ast.parse(Path(module.__file__).read_text())
    (found,) = [
        item
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == kind
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name == name
    ]
    return [*found.args.args, *found.args.kwonlyargs]


def test_an_engine_is_built_with_every_setting_and_its_label_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    double = Double()
    install(monkeypatch, double)
    write(tmp_path / engine.GRAPH)
    wanted = Settings(PROFILE, workspace_bytes=1 << 30, timing_cache="kept/timing.cache", level=5)
    label = engine.build(tmp_path, wanted, lambda *stage: None, tmp_path)
    assert double.asked == [(wanted, b"")]
    assert (tmp_path / "kept" / "timing.cache").read_bytes() == b"kernels"
    assert label == {
        "tensorrt": "10.3.0.26", "gpu": DEVICE.name, "compute_capability": "8.9", "driver": "580.65.06",
        "cuda": "13.0", "version_compatible": False, "hardware_compatible": "none",
    }  # fmt: skip
    engine.build(tmp_path, wanted, lambda *stage: None, tmp_path)
    assert double.asked[1] == (wanted, b"kernels")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["timing.cache"]


def test_an_engine_computes_what_its_graph_does_at_every_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import onnxruntime

    host = install(monkeypatch, Double())
    path = write(tmp_path / engine.GRAPH)
    engine.build(tmp_path, Settings(PROFILE), lambda *stage: None, tmp_path)
    session = engine.Session(tmp_path / engine.ENGINE, trusted=False)
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch in (1, 8, 2):
        x = rng.normal(size=(batch, 4, 4, 4))
        np.testing.assert_array_equal(
            session.run({"x": x})["y"], plain.run(None, {"x": x.astype(np.float32)})[0]
        )
    assert len(host.held) == 2  # smaller buffers were given back
    with pytest.raises(ConversionFailed, match="not built for input 'x'"):
        session.run({"x": np.zeros((9, 4, 4, 4))})


def test_host_code_is_trusted_only_in_engines_that_bring_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from modelport.verification import runners

    double = Double()
    install(monkeypatch, double)
    write(tmp_path / engine.GRAPH)
    for compatible in (False, True):
        wanted = dataclasses.replace(Settings(PROFILE), version_compatible=compatible)
        (tmp_path / build_file.NAME).write_text(build_file.to_toml(wanted))
        engine.build(tmp_path, wanted, lambda *stage: None, tmp_path)
        runner = runners.load(tmp_path / engine.ENGINE, "tensorrt")
        assert set(runner.run({"x": np.zeros((1, 4, 4, 4))})) == {"y"}
    assert double.loaded == [False, True]


def test_without_tensorrt_or_a_gpu_finish_says_which_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from modelport.exporters.job import Job
    from modelport.exporters.runtimes import tensorrt

    job = Job((), "onnx", "", "server-gpu", "tensorrt", "fp16", str(tmp_path), str(tmp_path))
    monkeypatch.setattr(engine, "installed", lambda: False)
    with pytest.raises(MissingExtra, match=r"modelport\[server-gpu\]"):
        tensorrt.finish(job, lambda *stage: None)
    monkeypatch.setattr(engine, "installed", lambda: True)
    monkeypatch.setattr(engine, "find_gpu", lambda: "there is no NVIDIA driver")
    with pytest.raises(Unsupported, match="no NVIDIA driver"):
        tensorrt.finish(job, lambda *stage: None)


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_says_so() -> None:
    assert "NVIDIA" in str(engine.find_gpu())
