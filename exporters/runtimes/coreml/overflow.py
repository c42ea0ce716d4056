"""float16 where it reaches, and float32 for the operators whose values were seen to go beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rewrite import precision_passes, rewritten, run_passes

LARGEST = 65504.0
"""The largest float16."""

HEADROOM = 2.0
"""Values of other inputs than those that were run may be larger: what comes this near counts as overflow."""

LISTED = 20
"""Names in a note before the rest is only counted."""


def half(model: Any, peaks: Mapping[str, float]) -> tuple[Any, tuple[str, ...]]:
    """The float32 model (MLModel) computed in float16, and the names of the operators that were not.

    `peaks` gives the largest absolute value that was seen, by value name. An operator is kept in float32
    where a value that it reads or writes came within `HEADROOM` of float16's end; its readers then take the
    large value as it is, until one brings it back into range. Constants are coremltools' own affair: it
    keeps operators in float32 whose constants do not fit.
    """
    kept: list[str] = []

    def is_half(op: Any) -> bool:
        values = [*op.get_flattened_inputs(), *op.outputs]
        if all(peaks.get(value.name, 0.0) * HEADROOM <= LARGEST for value in values):
            return True
        kept.append(op.outputs[0].name)
        return False

    def change(program: Any) -> None:
        import coremltools as ct

        ct.transform.FP16ComputePrecision(op_selector=is_half).apply(program)
        run_passes(program, *precision_passes())

    return rewritten(model, change), _notes(kept, peaks)


def _notes(kept: list[str], peaks: Mapping[str, float]) -> tuple[str, ...]:
    if not kept:
        return ()
    rest = f" and {len(kept) - LISTED} more" if len(kept) > LISTED else ""
    return (
        f"Kept in float32, since values up to {max(peaks.values()):.3g} were seen and float16 ends at "
        f"{LARGEST:.0f}: {', '.join(kept[:LISTED])}{rest}",
    )
