"""A package outside the project adds a target and an exporter, and gets check, verification and report for free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PLUGIN = Path(__file__).resolve().parents[1] / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the plug-in is installed beside modelport."""
    import shutil

    source, folder = tmp_path_factory.mktemp("plugin-source") / "plugin", tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(folder),
         str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    return {**os.environ, "PYTHONPATH": str(folder)}


def modelport(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("modelport")
    return subprocess.run([str(command), *words], capture_output=True, text=True, env=environment)


def test_its_target_is_listed_and_known_by_its_alias(installed: dict[str, str]) -> None:
    listed = {
        target["name"]: target for target in json.loads(modelport(installed, "targets", "--json").stdout)
    }
    assert listed["browser"]["exporter"] is True
    assert modelport(installed, "targets", "web").returncode == 0
    assert modelport(dict(os.environ), "targets", "browser").returncode == 2


def test_its_exporter_converts_and_the_result_is_verified(
    installed: dict[str, str], digits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = modelport(
        installed, "convert", str(digits / "digits.pt2"), "--target", "browser", "--out", str(out)
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["runtime"] == "ort_web"
    assert "written by a plug-in" in manifest["notes"]
    (figures,) = manifest["fidelity"]["outputs"].values()
    assert figures["cosine"] > 0.9999
    assert manifest["audit"]["weight_bytes"]["float32"] > 100_000


def test_a_bundle_is_not_done_until_it_is_finished(
    installed: dict[str, str], digits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("--target", "browser", "--quant", "bundle", "--out", str(out))
    assert modelport(installed, "convert", str(digits / "digits.pt2"), *words).returncode == 0
    assert json.loads((out / "manifest.json").read_text())["state"] == "awaiting a browser"
    assert "awaiting a browser" in modelport(installed, "verify", str(out)).stdout
    finished = modelport(installed, "finish", str(out))
    assert finished.returncode == 0, finished.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["state"], manifest["artifact"]) == ("done", "optimized.onnx")
    assert "finished by a plug-in" in manifest["notes"]
    assert modelport(installed, "verify", str(out)).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
