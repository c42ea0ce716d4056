"""ONNX files as torch programs: the standard's own cases, each exported by torch.export, and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch
from bar import close
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from onnx_node_cases import FAMILIAR, Case, cases, check

FILE_BYTES = 500_000_000
"""Of the file whose import is weighed."""

WEIGH = """
import sys, torch, onnx
from pathlib import Path
from modelport.sources.loading import onnx_program
from modelport.sources.loading.onnx_program import plan
def peak():
    return 1024 * int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
before = peak()
onnx_program.load(Path(sys.argv[1]), {})
print(peak() - before)
"""
"""Peak memory that an import adds, the frameworks being loaded."""


def memory(folder: Path, *, external: bool) -> float:
    """Peak memory that the import of a file of `FILE_BYTES` adds, over the file's size."""
    layers = 20
    side = round((FILE_BYTES / 4 / layers) ** 0.5)
    weight = np.random.default_rng(0).standard_normal((side, side), np.float32)
    nodes = [helper.make_node("MatMul", [f"h{n}", f"w{n}"], [f"h{n + 1}"]) for n in range(layers)]
    ends = [helper.make_tensor_value_info(name, 1, [1, side]) for name in ("h0", f"h{layers}")]
    weights = [numpy_helper.from_array(weight, f"w{n}") for n in range(layers)]
    model = helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights))
    file = folder / "chain.onnx"
    onnx.save(model, str(file), save_as_external_data=external, location="chain.data")
    size = sum(each.stat().st_size for each in folder.iterdir())
    told = subprocess.run(
        [sys.executable, "-c", WEIGH, str(file)], check=True, capture_output=True, text=True
    )
    share = int(told.stdout) / size
    where = "beside it" if external else "in it"
    print(
        f"an import of {size / 1e6:.0f} MB with the weights {where} adds {share:.2f} times its size of memory"
    )
    return share


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
    with tempfile.TemporaryDirectory() as inside, tempfile.TemporaryDirectory() as beside:
        weighed = max(memory(Path(inside), external=False), memory(Path(beside), external=True))
    close(
        "onnx-import",
        [
            ("share of the standard's node cases", 1 - len(failed) / len(all_of_them), ">=", 0.8),
            ("share of those of familiar networks' operators", right / len(familiar), ">=", 1.0),
            ("memory over file size", weighed, "<=", 1.3),
        ],
    )


if __name__ == "__main__":
    main()
