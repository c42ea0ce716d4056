"""The wheel holds the package and its data, and works from another folder without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, from a copy of the checkout so that nothing is written into it."""
    copy, out = tmp_path_factory.mktemp("copy") / "anything", tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "modelport/targets/catalog/android.toml" in names
    assert "modelport/reports/report.html.j2" in names
    assert not [
        name for name in names if name.startswith("modelport/tests/") or name.endswith("pyproject.toml")
    ]
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"modelport"}


def test_it_runs_in_an_empty_environment_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    constraints = ROOT / "constraints.txt"
    subprocess.run(
        [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "-c", str(constraints), str(wheel)],
        check=True, capture_output=True, env=environment,
    )  # fmt: skip
    for words in (["convert", "--help"], ["modelport", "targets"], ["modelport", "doctor"]):
        done = subprocess.run(
            [str(home / "bin" / words[0]), *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
    missing = subprocess.run(
        [str(home / "bin" / "python"), "-c", "import modelport, sys; print('torch' in sys.modules)"],
        cwd=tmp_path, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert missing.stdout.strip() == "False"
