"""Latency of microcontrollers: multiply-accumulates times the cycles that a core's kernels take for one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..device import Device
from ..facts import OpFact
from ..tables import Table, read_toml

TABLE = Path(__file__).with_name("microcontrollers.toml")
CLASSES = ("conv", "depthwise", "gemm", "matmul", "pool", "elementwise", "softmax", "movement")
MULTIPLYING = ("conv", "depthwise", "gemm", "matmul")
FOLDED = ("relu", "clip", "hardtanh", "batchnorm", "batch_norm", "norm")
"""Parts of names of operators that become part of the layer before them: no cycles of their own."""


@dataclass(frozen=True)
class Kernels:
    """Cycles of one core with one library of kernels."""

    core: str
    library: str
    """"cmsis-nn", "esp-nn" or "reference"."""
    cycles: Mapping[str, float]
    """By class: a multiply-accumulate (conv, depthwise, gemm, matmul), a window's element (pool), or an element."""
    sources: tuple[str, ...]
    estimates: frozenset[str]
    """Classes whose figure was not measured as it stands."""


@cache
def known() -> tuple[Kernels, ...]:
    """Every core and library of the table."""
    root = Table(read_toml(TABLE), str(TABLE))
    found = []
    for core in root.keys():  # noqa: SIM118
        libraries = root.table(core)
        for library in libraries.keys():  # noqa: SIM118
            table = libraries.table(library)
            found.append(
                Kernels(
                    core,
                    library,
                    {name: table.number(name) for name in CLASSES},
                    table.texts("sources"),
                    frozenset(table.texts("estimates", ())),
                )
            )
            table.done()
    return tuple(found)


def of_device(device: Device) -> tuple[Kernels, ...]:
    """The kernels that a device's core can be built with, the fastest first; empty where none is known."""
    mine = [kernels for kernels in known() if kernels.core == device.core]
    return tuple(sorted(mine, key=lambda kernels: kernels.cycles["conv"]))


def total(ops: Sequence[OpFact], kernels: Kernels, batch: int = 1) -> float | None:
    """Cycles of a whole graph; None where the work of an operator is not known.

    cycles = sum of MACs x cycles a MAC (by class) + elements x cycles an element; FLOPs are 2 x MACs.
    """
    cycles = 0.0
    for op in ops:
        each = _cycles(op, kernels.cycles)
        if each is None:
            return None
        cycles += each * batch
    return cycles


def _cycles(op: OpFact, table: Mapping[str, float]) -> float | None:
    if op.op_class in MULTIPLYING:
        return None if op.flops is None else op.flops / 2 * table[op.op_class]
    if op.op_class == "pool":
        return None if op.flops is None else op.flops * table["pool"]
    if folded(op):
        return 0.0
    if op.op_class in ("movement", "embedding"):
        return op.activations / 2 * table["movement"]
    if op.op_class in ("elementwise", "softmax"):
        # Half of what it touches is written, at least.
        return op.activations / 2 * table[op.op_class]
    return None if op.flops is None else op.flops / 2 * table["gemm"]


def folded(op: OpFact) -> bool:
    """Whether a converter makes this operator a part of the layer before it."""
    return op.op_class == "norm" or any(part in op.kind.lower() for part in FOLDED)


def macs(ops: Iterable[OpFact]) -> float:
    """Multiply-accumulates of the layers that multiply."""
    return sum((op.flops or 0) / 2 for op in ops if op.op_class in MULTIPLYING)
