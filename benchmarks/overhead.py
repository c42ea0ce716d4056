"""Wall time of `convert` against the bare library calls doing the same, interleaved."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bar import close, interleaved, medians

HERE = Path(__file__).resolve().parent
ARTIFACTS = HERE.parent / "examples" / "digits" / "artifacts"
GRACE_SECONDS = 2.0
RATIO = 1.25
RUNS = 3


def timed(*command: str | Path) -> float:
    """Seconds of one run; its output is shown only when it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=dict(os.environ)
    )
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - start


def case(target: str, bare: str, scratch: Path) -> tuple[float, float]:
    """(seconds of convert, seconds of the bare script), medians of interleaved runs on digits.pt2, int8."""
    model, data = ARTIFACTS / "digits.pt2", ARTIFACTS / "calibration.npz"
    convert = Path(sys.executable).with_name("convert")
    found = medians(
        interleaved(
            RUNS,
            bare=lambda: timed(sys.executable, HERE / "bare" / bare, model, data, scratch / "bare"),
            convert=lambda: timed(
                convert, model, "--target", target, "--quant", "int8", "--calibration", data,
                "--out", scratch / target, "--overwrite", "--held-out", "64", "--quiet",
            ),
        )
    )  # fmt: skip
    return found["convert"], found["bare"]


def main() -> None:
    """Both targets; the bar is on the worse one: (convert - 2 s) / bare."""
    checks = []
    with tempfile.TemporaryDirectory() as temporary:
        for target, bare in (("android", "android_digits.py"), ("server-cpu", "server_cpu_digits.py")):
            convert, alone = case(target, bare, Path(temporary))
            print(
                f"{target:12s} convert {convert:6.2f} s   bare calls {alone:6.2f} s   {convert / alone:.2f}x"
            )
            checks.append(
                (f"{target} (convert - 2 s) / bare", (convert - GRACE_SECONDS) / alone, "<=", RATIO)
            )
    close("overhead", checks)


if __name__ == "__main__":
    main()
