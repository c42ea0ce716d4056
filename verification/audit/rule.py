"""Did the file get what was asked for? The shares that the manifest states and the warning they give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import Audit

EXPECTED = 0.95
"""Share of the weight bytes, and of the multiply-accumulates where the scheme computes in integers."""
REFUSED = 0.5
"""Below this share of the weight bytes the file is not what was asked for."""

SAME_FORM = {
    "int8": ("int8", "uint8"),
    "int4": ("int4", "uint4"),
    "float16": ("float16",),
    "int16": ("int16",),
}
"""Stored dtypes that count as the asked one."""


@dataclass(frozen=True)
class Shares:
    """How much of the file is in the asked form, 0..1; None where nothing can be counted."""

    weights: float | None
    macs: float | None
    warnings: tuple[str, ...]
    refused: bool


def left_in_float(operators: Iterable[str]) -> str:
    """Operators left in float for people, counted by kind: "BATCH_MATMUL × 12, CONV_2D 'stem'"."""
    by_kind: dict[str, list[str]] = {}
    for operator in operators:
        by_kind.setdefault(operator.partition(" ")[0], []).append(operator)
    return ", ".join(
        found[0] if len(found) == 1 else f"{kind} × {len(found)}" for kind, found in by_kind.items()
    )


def shares(audit: Audit, weights: str, compute: str) -> Shares:
    """Hold an audit against the scheme's weight dtype and compute dtype (names of `facts.DTYPE_BITS`)."""
    weight_share = audit.weight_share(SAME_FORM.get(weights, (weights,)))
    mac_share = audit.mac_share(SAME_FORM.get(compute, (compute,)))
    warnings: list[str] = []
    left = left_in_float(audit.float_ops)
    named = f"; left in float: {left}" if left else ""
    # Biases of integer kernels are int32 by design: a small model whose rest is that got what was asked.
    asked_or_bias = audit.weight_share((*SAME_FORM.get(weights, (weights,)), "int32"))
    if weight_share is not None and asked_or_bias is not None and asked_or_bias < EXPECTED:
        warnings.append(
            f"{weights} was asked for and {weight_share:.1%} of the weight bytes are {weights}{named}"
        )
    if "int" in compute and mac_share is not None and mac_share < EXPECTED:
        warnings.append(f"{mac_share:.1%} of the multiply-accumulates are {compute}{named}")
    refused = weights != "float32" and weight_share is not None and weight_share < REFUSED
    return Shares(weight_share, mac_share, tuple(warnings), refused)
