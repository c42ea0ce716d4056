"""README.md of the output folder: what the program takes and gives, how it is loaded, and on how many devices."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from jax import export

from ...job import Port
from .options import Mesh

NAME = "README.md"


def write(
    folder: Path, artifact: str, inputs: Iterable[Port], outputs: Iterable[Port], mesh: Mesh | None
) -> str:
    """Write README.md from the program as it was written. Gives the file's name."""
    program = export.deserialize(bytearray((folder / artifact).read_bytes()))
    (_, given), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    made = jax.tree.unflatten(program.out_tree, program.out_avals)
    rows = [_row("input", port, given[port.artifact]) for port in inputs]
    rows += [_row("output", port, made[port.artifact]) for port in outputs]
    (folder / NAME).write_text(_render(artifact, program, rows, mesh), encoding="utf-8")
    return NAME


def _render(artifact: str, program: Any, rows: list[str], mesh: Mesh | None) -> str:
    platforms = " and ".join(name.upper() for name in program.platforms)
    lines = [
        "# model",
        "",
        f"`{artifact}` is a StableHLO program for {platforms}, as `jax.export` serializes it. It takes its weights as "
        "an argument: they stand in `weights.safetensors`. What was checked, and how closely it computes what its "
        "source does, stands in `report.html` and `manifest.json`.",
        "",
        "| | name | dtype | shape |",
        "|---|---|---|---|",
        *rows,
        "",
        "```python",
        "import load",
        "",
        'outputs = load.model(**inputs)  # {"name": array} by the names above',
        "```",
        "",
        "`python load.py inputs.npz` does so from the terminal. It needs jax, flatbuffers and safetensors.",
        "",
    ]
    if mesh is not None:
        flag = f"XLA_FLAGS=--xla_force_host_platform_device_count={mesh.devices}"
        lines += [
            f"The program is for a mesh of {mesh}: {mesh.devices} devices, no more and no fewer. Without "
            f"that many TPUs, `{flag} JAX_PLATFORMS=cpu` makes as many of the CPU, to try it.",
            "",
        ]
    return "\n".join(lines)


def _row(side: str, port: Port, aval: Any) -> str:
    shape = " × ".join(str(size) for size in aval.shape) or "a number"
    name = re.sub(r"[`|\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", port.artifact)
    return f"| {side} | `{name}` | {aval.dtype} | {shape} |"
