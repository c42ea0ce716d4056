"""The MIL evaluator in coremltools' own operator tests, whose expectations hold for Core ML on Macs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bar import close

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("activation", "compression", "constexpr_ops", "control_flow", "conv", "elementwise_binary",
            "elementwise_unary", "image_resizing", "linear", "normalization", "pool", "quantization", "recurrent",
            "reduction", "scatter_gather", "tensor_operation", "tensor_transformation", "transformers")  # fmt: skip
BAR = 0.97
"""Share of the comparisons that must agree; none may differ. The rest is known to be unknown, and is named."""


def compared(families: tuple[str, ...], cases: int) -> list[dict[str, str]]:
    """Every comparison that the tests of `families` made, at most `cases` cases a test function."""
    package = importlib.util.find_spec(
        "coremltools"
    )  # not imported: it prints a page of what it could not load
    if package is None or package.origin is None:
        sys.exit("coremltools is not installed")
    tests = Path(package.origin).parent / "converters" / "mil" / "mil" / "ops" / "tests"
    files = [str(file) for family in families for file in sorted(tests.glob(f"iOS*/test_{family}.py"))]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        log.touch()
        environment = os.environ | {
            "MIL_MACS_LOG": str(log),
            "MIL_MACS_CASES": str(cases),
            "PYTHONPATH": str(ROOT / "tests" / "support"),
        }
        options = ["-q", "-p", "mil_macs", "-p", "no:cacheprovider", "-W", "ignore", "--no-header", "--tb=no"]
        command = [sys.executable, "-m", "pytest", *options, f"--rootdir={folder}", *files]
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        notes = [json.loads(line) for line in log.read_text().splitlines()]
    if not notes:
        sys.exit(f"no comparison was made:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}")
    return notes


def main() -> None:
    """Print what differed or was not known, by operator, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3, help="most cases of one test function")
    parser.add_argument("--family", action="append", choices=FAMILIES)
    given = parser.parse_args()
    notes = compared(tuple(given.family or FAMILIES), given.cases)
    # These give indices that lie outside on purpose, and expect that nothing useful comes out.
    invalid = [note for note in notes if note["outcome"] == "refused" and "invalid_indices" in note["test"]]
    notes = [note for note in notes if note not in invalid]
    counts = Counter(note["outcome"] for note in notes)
    for outcome in ("differs", "refused"):
        for note in notes:
            if note["outcome"] == outcome:
                print(f"{outcome:8} {note['test'].rsplit('/', 1)[-1]}: {note['detail']}")
    for operator, count in Counter(n["detail"] for n in notes if n["outcome"] == "unknown").most_common():
        print(f"unknown  {count:4} x {operator}")
    share = counts["agreed"] / max(1, len(notes))
    print(f"{len(notes)} comparisons, {dict(counts)}, {len(invalid)} rightly refused")
    close(
        "mil-operators",
        [
            ("comparisons", len(notes), ">=", 1),
            ("share that meets Core ML's expectation", share, ">=", BAR),
            ("that differ", counts["differs"], "<=", 0),
            ("refused", counts["refused"], "<=", 0),
        ],
    )


if __name__ == "__main__":
    main()
