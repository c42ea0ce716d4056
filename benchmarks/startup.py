"""How much longer `import modelport` and `convert --help` take than a bare `python -c pass`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bar import close, interleaved, medians

LIMIT_MS = 150
CONVERT = Path(sys.executable).with_name("convert")


def timed(*command: str) -> float:
    """Milliseconds of one run, in a folder that holds no Python file."""
    with tempfile.TemporaryDirectory() as elsewhere:
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=elsewhere)
        return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Interleave the three, print medians, hold the larger difference against the bar."""
    python = sys.executable
    found = medians(
        interleaved(
            15,
            bare=lambda: timed(python, "-c", "pass"),
            imported=lambda: timed(python, "-c", "import modelport"),
            help=lambda: timed(str(CONVERT), "--help"),
        )
    )
    for name, value in found.items():
        print(f"{name:10s} {value:7.1f} ms")
    close(
        "startup",
        [
            ("import modelport, ms over bare", found["imported"] - found["bare"], "<=", LIMIT_MS),
            ("convert --help, ms over bare", found["help"] - found["bare"], "<=", LIMIT_MS),
        ],
    )


if __name__ == "__main__":
    main()
