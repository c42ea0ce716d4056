"""`modelport doctor ENGINE`: what an engine's label and header say of the machine that it shall run on."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from modelport.exporters.runtimes.tensorrt import build_file, cuda, engine
from modelport.exporters.runtimes.tensorrt.options import Settings
from modelport.reports import engine as doctor
from modelport.reports import manifest
from modelport.targets.errors import SourceUnreadable, UsageError

L4 = cuda.Device("NVIDIA L4", "8.9", "580.65.06", "13.0", 23 << 30)
A100 = cuda.Device("NVIDIA A100", "8.0", "580.65.06", "13.0", 80 << 30)
T4 = cuda.Device("NVIDIA T4", "7.5", "580.65.06", "13.0", 16 << 30)
LABEL = {
    "tensorrt": "10.3.0.26", "gpu": "NVIDIA L4", "compute_capability": "8.9", "driver": "580.65.06", "cuda": "13.0",
    "version_compatible": False, "hardware_compatible": "none",
}  # fmt: skip


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says which TensorRT and which GPU this machine has."""

    def has(tensorrt: str | None, gpu: cuda.Device | str) -> None:
        monkeypatch.setattr(doctor, "_installed", lambda: tensorrt)
        monkeypatch.setattr(engine, "find_gpu", lambda: gpu)

    has("10.3.0.26", L4)
    return has


def plan(
    folder: Path, label: dict[str, Any] | None, version: bytes = bytes((10, 3, 0, 26)), layout: int = 0
) -> Path:
    """An engine's first bytes as TensorRT writes them, and a manifest with a label beside it."""
    path = folder / "model.engine"
    path.write_bytes(b"ftrt" + struct.pack("<I", layout) + bytes(16) + version + b"the rest")
    (folder / "model.onnx").write_bytes(b"")
    (folder / build_file.NAME).write_text(build_file.to_toml(Settings()))
    if label is not None:
        found: dict[str, Any] = {name: {} for name in manifest.FORMS}
        found |= {
            "schema": 1, "state": "done", "command": [], "target": "server-gpu", "quant": "int8",
            "runtime": "tensorrt", "format": "tensorrt", "artifact": path.name, "portability": label,
            "files": manifest.file_entries(folder), "fidelity": None, "audit": None,
        }  # fmt: skip
        (folder / manifest.NAME).write_text(json.dumps(found))
    return path


def test_the_machine_that_built_it_loads_it(host: Any, tmp_path: Path) -> None:
    found = doctor.examine(plan(tmp_path, LABEL))
    assert (found["loads"], found["built_with"], found["reasons"]) == ("yes", "10.3.0.26", [])


@pytest.mark.parametrize(
    ("changes", "tensorrt", "gpu", "loads", "told"),
    [
        ({}, "10.4.0.11", L4, "no", "loads in the version that built it"),
        ({}, None, L4, "no", "tensorrt is not installed"),
        ({"version_compatible": True}, "11.4.0.106", L4, "yes", ""),
        (
            {"version_compatible": True},
            "10.2.0.19",
            L4,
            "no",
            "version-compatible, from TensorRT 10.3.0.26 on",
        ),
        ({}, "10.3.0.26", A100, "no", "compute capability 8.9"),
        ({"hardware_compatible": "ampere-plus"}, "10.3.0.26", A100, "yes", ""),
        ({"hardware_compatible": "ampere-plus"}, "10.3.0.26", T4, "no", "Ampere and later"),
        ({"hardware_compatible": "same-compute-capability"}, "10.3.0.26", A100, "no", "compute capability"),
        ({"gpu": "NVIDIA L40S"}, "10.3.0.26", L4, "unknown", "tuned on NVIDIA L40S"),
        ({"cuda": "14.1"}, "10.3.0.26", L4, "unknown", "CUDA 14.1"),
        ({}, "10.3.0.26", "the NVIDIA driver finds no GPU", "unknown", "finds no GPU"),
    ],
)
def test_another_machine_is_told_what_it_lacks(
    host: Any, tmp_path: Path, changes: dict[str, Any], tensorrt: str | None, gpu: Any, loads: str, told: str
) -> None:
    host(tensorrt, gpu)
    found = doctor.examine(plan(tmp_path, LABEL | changes))
    assert found["loads"] == loads
    assert told in " ".join((*found["reasons"], *found["unknown"]))


def test_without_a_manifest_the_header_alone_speaks(host: Any, tmp_path: Path) -> None:
    host("10.4.0.11", L4)
    found = doctor.examine(plan(tmp_path, None))
    assert (found["loads"], found["built_with"]) == ("no", "10.3.0.26")
    assert doctor.examine(plan(tmp_path, None, layout=7))["built_with"] is None


def test_an_unpublished_header_is_unknown_and_the_label_speaks(host: Any, tmp_path: Path) -> None:
    host("10.4.0.11", L4)
    found = doctor.examine(plan(tmp_path, LABEL, layout=7))
    assert found["loads"] == "no"
    assert "layout 7" in " ".join(found["unknown"])


def test_how_to_build_it_again_is_said(host: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host("10.4.0.11", L4)
    doctor.show(doctor.examine(plan(tmp_path, LABEL)))
    shown = capsys.readouterr().out
    assert "modelport finish --rebuild" in shown
    assert "trtexec --onnx=model.onnx" in shown


def test_what_is_no_engine_is_refused(host: Any, tmp_path: Path) -> None:
    for content in (b"", b"ftrt", b"GGUF" + bytes(40)):
        (tmp_path / "x.engine").write_bytes(content)
        with pytest.raises(SourceUnreadable, match="no TensorRT engine"):
            doctor.examine(tmp_path / "x.engine")
    with pytest.raises(UsageError, match="no such file"):
        doctor.examine(tmp_path / "nothing.engine")


def test_an_engine_that_differs_from_its_manifest_is_refused(host: Any, tmp_path: Path) -> None:
    path = plan(tmp_path, LABEL)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(SourceUnreadable, match="hash"):
        doctor.examine(path)
