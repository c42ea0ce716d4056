"""Wall time of `convert` against the bare library calls doing the same, interleaved."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bar import close, interleaved, medians
from minilm import MODEL, sentences

HERE = Path(__file__).resolve().parent
ARTIFACTS = HERE.parent / "examples" / "digits" / "artifacts"
GRACE_SECONDS = 2.0
RATIO = 1.25
RUNS = 3


def timed(folder: Path, *command: str | Path) -> float:
    """Seconds of one run in `folder`, where libraries leave files; its output is shown only when it fails."""
    start = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - start


def case(target: str, bare: str, model: Path, quant: str, data: Path, scratch: Path) -> tuple[float, float]:
    """(seconds of convert, seconds of the bare script), medians of interleaved runs, 64 samples held out."""
    convert = Path(sys.executable).with_name("convert")
    found = medians(
        interleaved(
            RUNS,
            bare=lambda: timed(scratch, sys.executable, HERE / "bare" / bare, model, data, scratch / "bare"),
            convert=lambda: timed(
                scratch, convert, model, "--target", target, "--quant", quant, "--calibration", data,
                "--out", scratch / bare, "--overwrite", "--held-out", "64", "--quiet",
            ),
        )
    )  # fmt: skip
    return found["convert"], found["bare"]


def main() -> None:
    """Three conversions; the bar is on each: (convert - 2 s) / bare."""
    checks = []
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        texts = scratch / "sentences.txt"
        texts.write_text("\n".join(sentences()[:320]), encoding="utf-8")
        digits, images = ARTIFACTS / "digits.pt2", ARTIFACTS / "calibration.npz"
        for target, bare, model, quant, data in (
            ("android", "android_digits.py", digits, "int8", images),
            ("server-cpu", "server_cpu_digits.py", digits, "int8", images),
            ("server-cpu", "server_cpu_minilm.py", MODEL, "int8-dynamic", texts),
        ):
            convert, alone = case(target, bare, model, quant, data, scratch)
            name = f"{target} {'MiniLM' if model is MODEL else 'digits'} {quant}"
            print(f"{name:32s} convert {convert:6.2f} s   bare calls {alone:6.2f} s   {convert / alone:.2f}x")
            checks.append((f"{name}: (convert - 2 s) / bare", (convert - GRACE_SECONDS) / alone, "<=", RATIO))
    close("overhead", checks)


if __name__ == "__main__":
    main()
