"""A conversion that must be refused from the command line: its exit code, its one error, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONVERT = Path(sys.executable).with_name("convert")


def refused(
    path: Path, code: int, *words: str, target: str, quant: str, options: tuple[str, ...] = ()
) -> str:
    """The error of `convert`, which must end with `code`, say every one of `words`, and leave nothing."""
    room = path.parent / "room"
    room.mkdir(exist_ok=True)
    command = [CONVERT, path, "--target", target, "--quant", quant, "--out", room / "out", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    said = " ".join(done.stderr.split())
    assert done.returncode == code, said
    for word in words:
        assert word in said, said
    assert "Traceback" not in said
    assert said.count("error:") == 1, said
    assert list(room.iterdir()) == []
    return said
