"""What a conversion leaves when it is stopped: one clear error, a documented exit code, and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def command(digits: Path, out: Path, *more: str) -> list[str]:
    convert = Path(sys.executable).with_name("convert")
    data = digits / "images"
    return [str(convert), str(digits / "digits.pt2"), "--target", "android", "--quant", "int8",
            "--calibration", str(data), "--out", str(out), *more]  # fmt: skip


def run(digits: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(digits, out, *more), capture_output=True, text=True)


def children_named(folder: Path) -> list[str]:
    """Processes that still work inside `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(folder) in os.readlink(entry / "cwd"):
                    found.append(entry.name)
            except OSError:
                continue
    return found


def test_a_worker_over_its_memory_limit(digits: Path, tmp_path: Path) -> None:
    done = run(digits, tmp_path / "out", "--memory-limit", "150M")
    assert done.returncode == 3
    assert "converting takes about" in done.stderr
    done = run(digits, tmp_path / "out", "--memory-limit", "150M", "--force")
    assert done.returncode == 6
    assert "memory limit" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_worker_over_its_time(digits: Path, tmp_path: Path) -> None:
    done = run(digits, tmp_path / "out", "--timeout", "2")
    assert done.returncode == 6
    assert "no result after 2 s" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_the_middle(digits: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(command(digits, out), stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    assert children_named(tmp_path) == []


def test_killed_outright_and_run_again(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(command(digits, out), stderr=subprocess.DEVNULL)
    time.sleep(3)
    process.kill()
    process.wait()
    assert not out.exists()
    deadline = time.monotonic() + 10
    while children_named(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children_named(tmp_path) == []
    assert run(digits, out).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk(digits: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here; tests/exporters covers RLIMIT_FSIZE")
    try:
        process = subprocess.Popen(command(digits, disk / "out"), stderr=subprocess.PIPE, text=True)
        while not list(disk.iterdir()) and process.poll() is None:
            time.sleep(0.01)
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 6
        assert "disk is full" in errors
        assert [path.name for path in disk.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
