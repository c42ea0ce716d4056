"""Did the file get what was asked for? The shares that the manifest states and the warning they give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...targets.facts import BLOCK_BITS
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
"""Stored dtypes that count as the asked one; `forms` adds ggml's blocks."""

BLOCK_RANGES = {"int8": (5.0, 9.0), "int4": (3.0, 6.6), "int2": (2.0, 6.6)}
"""Bits of the blocks that count as the asked integers, from and to.

llama.cpp's schemes are mixtures: a 4-bit one keeps the head and half of its most sensitive matrices in 6 bits.
"""


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


def forms(weights: str) -> tuple[str, ...]:
    """The stored dtypes that count as `weights`: "int4" -> int4, uint4, q4_0, q4_k, q6_k..."""
    low, high = BLOCK_RANGES.get(weights, (0.0, 0.0))
    blocks = (name for name, bits in BLOCK_BITS.items() if low <= bits <= high)
    return (*SAME_FORM.get(weights, (weights,)), *blocks)


def _in_other_blocks(audit: Audit, weights: str) -> tuple[float, str]:
    """Share of the weight bytes in quantized blocks of another width than asked, and the words for it.

    A row that is no multiple of 256 values falls back to blocks of 32, which are wider.
    """
    asked = forms(weights)
    others = [name for name in audit.weight_bytes if name in BLOCK_BITS and name not in asked]
    if weights not in BLOCK_RANGES or not others:
        return 0.0, ""
    listed = ", ".join(f"{name} {audit.weight_share((name,)):.1%}" for name in others)
    return audit.weight_share(others) or 0.0, f"; in other blocks: {listed}"


def shares(audit: Audit, weights: str, compute: str) -> Shares:
    """Hold an audit against the scheme's weight dtype and compute dtype (names of `facts.DTYPE_BITS`).

    Refused is a file of which less than half is in the asked form, or in quantized blocks of any width where
    integers were asked for; one that holds nothing at all of what was asked for; and one that breaks a rule of its
    runtime. What the format keeps apart is not counted.
    """
    if audit.apart:
        audit = replace(
            audit,
            weight_bytes={name: n - audit.apart.get(name, 0) for name, n in audit.weight_bytes.items()},
            apart={},
        )
    weight_share = audit.weight_share(forms(weights))
    mac_share = audit.mac_share(SAME_FORM.get(compute, (compute,)))
    warnings: list[str] = []
    left = left_in_float(audit.float_ops)
    named = f"; left in float: {left}" if left else ""
    # Biases of integer kernels are int32 by design: a small model whose rest is that got what was asked.
    asked_or_bias = audit.weight_share((*forms(weights), "int32"))
    other_share, others = _in_other_blocks(audit, weights)
    if weight_share is not None and asked_or_bias is not None and asked_or_bias < EXPECTED:
        warnings.append(
            f"{weights} was asked for and {weight_share:.1%} of the weight bytes are {weights}{others}{named}"
        )
    if "int" in compute and mac_share is not None and mac_share < EXPECTED:
        warnings.append(f"{mac_share:.1%} of the multiply-accumulates are {compute}{named}")
    held = weight_share is None or (weight_share > 0 and weight_share + other_share >= REFUSED)
    warnings += audit.broken
    refused = bool(audit.broken) or (weights != "float32" and not held)
    return Shares(weight_share, mac_share, tuple(warnings), refused)
