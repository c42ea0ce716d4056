"""ONNX files as torch programs: the standard's own cases of its operators, each exported by torch.export."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import torch
from bar import close

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from onnx_node_cases import FAMILIAR, Case, cases, check


def main() -> None:
    """Run every case, name those that fail, and print the line with figures and bars."""
    torch.set_num_threads(1)
    failed: list[Case] = []
    all_of_them = list(cases())
    for case in all_of_them:
        reason = check(case, export=True)
        if reason:
            failed.append(case)
            print(f"  {case.name}: {reason.splitlines()[0][:150]}")
    lacking = Counter(case.operator for case in failed)
    told = ", ".join(f"{name} ({count})" for name, count in sorted(lacking.items()))
    print(f"{len(failed)} cases of these operators do not pass: {told}")
    familiar = [case for case in all_of_them if case.operator in FAMILIAR]
    right = len(familiar) - sum(case.operator in FAMILIAR for case in failed)
    print(
        f"{len(all_of_them) - len(failed)} of {len(all_of_them)} cases; {right} of {len(familiar)} of familiar ones"
    )
    close(
        "onnx-import",
        [
            ("share of the standard's node cases", 1 - len(failed) / len(all_of_them), ">=", 0.8),
            ("share of those of familiar networks' operators", right / len(familiar), ">=", 1.0),
        ],
    )


if __name__ == "__main__":
    main()
