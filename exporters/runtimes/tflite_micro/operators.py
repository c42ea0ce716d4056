"""Operators that TensorFlow Lite Micro has kernels for, from a table with its version: `operators.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ....targets.errors import Unsupported
from ...litert.flatbuffer import Graph

TABLE = Path(__file__).with_name("operators.toml")
GROUPS = {"int8": ("int8-int16", "int8"), "int16x8": ("int8-int16",)}
"""Groups of the table whose kernels take a scheme's activations."""


@dataclass(frozen=True)
class Registered:
    """The table: which operators a scheme may use, and the resolver's method that adds each."""

    version: str
    """The public source that it was read from."""
    methods: dict[str, str]
    """As in {"CONV_2D": "AddConv2D"}; every operator that is registered, whatever its types."""
    allowed: dict[str, frozenset[str]]
    """Operators with kernels for a scheme's activations, by scheme."""


@cache
def registered() -> Registered:
    """The table as it stands beside this file."""
    raw = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    groups = {name: dict(group) for name, group in raw.items() if isinstance(group, dict)}
    return Registered(
        version=raw["version"],
        methods={name: method for group in groups.values() for name, method in group.items()},
        allowed={
            scheme: frozenset(name for group in wanted for name in groups[group])
            for scheme, wanted in GROUPS.items()
        },
    )


def require(graph: Graph, scheme: str) -> None:
    """Raise Unsupported naming every operator that has no kernel for the scheme's integers."""
    table = registered()
    kinds = {op.kind for op in graph.ops}
    unknown = sorted(kinds - set(table.methods))
    if unknown:
        raise Unsupported(
            f"TensorFlow Lite Micro has no kernel for {', '.join(unknown)} ({table.version})",
            mend="Rewrite that part of the model, or choose target android for a phone or a board with Linux",
        )
    lacking = sorted(kinds - table.allowed[scheme])
    if lacking:
        elsewhere = scheme != "int8" and kinds <= table.allowed["int8"]
        raise Unsupported(
            f"TensorFlow Lite Micro computes {', '.join(lacking)} with no {scheme} values ({table.version})",
            where=f"--quant {scheme}",
            mend="int8 has these kernels: --quant int8" if elsewhere else "Rewrite that part of the model",
        )


def methods(kinds: Iterable[str]) -> list[str]:
    """Methods of MicroMutableOpResolver that add these operators, each once, in the alphabet's order."""
    table = registered()
    return sorted({table.methods[kind] for kind in kinds})
