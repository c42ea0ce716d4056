"""The arena computed at the desk beside the one that TensorFlow Lite Micro itself takes, and its outputs' bits.

`--tflm PATH` names a program, built from TensorFlow Lite Micro's public source with its reference kernels:
`PATH MODEL INPUTS OUTPUTS` runs MODEL on every sample in INPUTS (each input's bytes in turn), writes the outputs'
bytes to OUTPUTS, and prints one JSON object: `pointer_size`, `head`, `tail`, `total` (bytes that MicroInterpreter
reports as used) and `smallest` (the smallest arena that AllocateTensors succeeds in). Several may be given, one a
size of a pointer. `--write` keeps what they said in arena_figures.json.

Without it, the figures kept there are compared, for models that come out with the same bytes as those then measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bar import close

from modelport.exporters.runtimes.tflite_micro.arena import plan
from modelport.exporters.runtimes.tflite_micro.arena.structures import structures

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import edge_models

FIGURES = Path(__file__).with_name("arena_figures.json")
SAMPLES = 3
WANTED = 12
"""Models that the bar asks for."""


@dataclass(frozen=True)
class Compared:
    """One model and one size of a pointer: our bytes, and what TensorFlow Lite Micro says (`theirs`)."""

    name: str
    pointer: int
    head: int
    total: int
    needed: int
    theirs: dict[str, Any]
    """The runner's figures; `same`: its outputs are those of LiteRT's reference kernels, FULLY_CONNECTED rounded as
    it rounds (`micro_rounding`); `plain`: those of LiteRT's own FULLY_CONNECTED too."""

    @property
    def over(self) -> float:
        """Our total over theirs, as a share."""
        return self.total / int(self.theirs["total"]) - 1


def sha(data: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def judged(runner: Path, model: bytes, inputs: bytes) -> dict[str, Any]:
    """What TensorFlow Lite Micro says of a model, with its outputs' hash."""
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / name for name in ("model.tflite", "inputs", "outputs")]
        paths[0].write_bytes(model)
        paths[1].write_bytes(inputs)
        done = subprocess.run([runner, *paths], check=True, capture_output=True, text=True)
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {**said, "outputs": sha(paths[2].read_bytes())}


def compare(name: str, model: bytes, runners: list[Path], kept: dict[str, Any]) -> list[Compared]:
    """Every size of a pointer for which TensorFlow Lite Micro speaks: by `runners`, or as it did before."""
    samples = edge_models.random_inputs(model, SAMPLES)
    expected, plain = (
        sha(
            b"".join(
                o.tobytes() for one in edge_models.reference_outputs(model, samples, micro=micro) for o in one
            )
        )
        for micro in (True, False)
    )
    if runners:
        inputs = b"".join(value.tobytes() for one in samples for value in one)
        said = [judged(runner, model, inputs) for runner in runners]
    elif kept.get("sha256") == sha(model):
        said = list(kept["measured"])
    else:
        return []
    found = []
    for theirs in said:
        ours = plan(model, theirs["pointer_size"])
        told = {**theirs, "same": theirs["outputs"] == expected, "plain": theirs["outputs"] == plain}
        one = Compared(name, ours.pointer_size, ours.head, ours.total, ours.needed, told)
        print(
            f"{name:18s} {8 * one.pointer:2d} bit  head {one.head:7,d} / {theirs['head']:7,d}  "
            f"total {one.total:7,d} / {theirs['total']:7,d}  smallest {one.needed:7,d} / {theirs['smallest']:7,d}  "
            f"outputs {'equal' if told['same'] else 'DIFFER'}"
            f"{'' if told['plain'] else ' (not with the rounding of LiteRT FULLY_CONNECTED)'}",
            flush=True,
        )
        found.append(one)
    return found


def main() -> None:
    """Compare every model and print the line with figures and bars."""
    asked = argparse.ArgumentParser(description="bar-arena")
    asked.add_argument("--tflm", type=Path, action="append", default=[], help="a built runner, see above")
    asked.add_argument("--write", action="store_true", help="keep what the runners say")
    asked.add_argument("--models", type=Path, help="read NAME.tflite there, or make it there")
    options = asked.parse_args()
    kept = json.loads(FIGURES.read_text(encoding="utf-8"))["models"] if FIGURES.exists() else {}
    found, fresh, other = [], {}, []
    for name in edge_models.MODELS:
        model = made(name, options.models)
        compared = compare(name, model, options.tflm, kept.get(name, {}))
        found += compared
        if not compared:
            other.append(name)
        fresh[name] = {
            "sha256": sha(model),
            "measured": [
                {k: v for k, v in one.theirs.items() if k not in ("same", "plain")} for one in compared
            ],
        }
    if options.write and options.tflm:
        text = {"tflm": structures(8).version, "seed": edge_models.SEED, "models": fresh}
        FIGURES.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    how = (
        "TensorFlow Lite Micro ran here"
        if options.tflm
        else "compared with the figures in arena_figures.json"
    )
    print(f"{how}; not compared, other bytes than those measured: {', '.join(other) or 'none'}")
    close(
        "arena",
        [
            ("models compared", len({one.name for one in found}), ">=", WANTED),
            ("heads that differ", sum(one.head != one.theirs["head"] for one in found), "<=", 0),
            ("totals below", sum(one.over < 0 for one in found), "<=", 0),
            ("largest share over", max((one.over for one in found), default=0.0), "<=", 0.02),
            ("arenas too small", sum(one.needed < one.theirs["smallest"] for one in found), "<=", 0),
            ("outputs that differ", sum(not one.theirs["same"] for one in found), "<=", 0),
        ],
    )


def made(name: str, folder: Path | None) -> bytes:
    """A model's bytes, made anew or read from `folder` where it lies."""
    path = folder / f"{name}.tflite" if folder else None
    if path is not None and path.exists():
        return path.read_bytes()
    data = edge_models.build(name)
    if path is not None:
        path.write_bytes(data)
    return data


if __name__ == "__main__":
    main()
