"""int8 activations: quantize and dequantize pairs around what Core ML computes in integers, with ranges of ours."""

from __future__ import annotations

import collections
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ....calibration.ranges import Range
from ....targets.errors import Unsupported
from .rewrite import operations, rewritten

COMPUTE = ("conv", "linear")
"""Operators that multiply and accumulate in integers between a dequantize and a quantize."""

FOLLOWING = ("add", "avg_pool", "max_pool")
"""Operators that are int8 where all their neighbours are: alone they would only lose precision."""

THROUGH = (
    "clip", "expand_dims", "hard_sigmoid", "leaky_relu", "pad", "relu", "relu6", "reshape", "scaled_tanh", "sigmoid",
    "squeeze", "tanh", "transpose",
)  # fmt: skip
"""Operators that are fused behind an int8 one, or only move its result."""

MIN_SQNR_DB = 20.0
"""An activation whose rounding to 8 bits leaves less signal to noise than this stays in float."""

LARGEST = 65504.0
"""What float16, in which the scales are stored, ends at."""

LOPSIDED = 0.5
"""A range whose shorter side is below this share of the longer one gets a zero point of its own. Otherwise the zero
point is 0, with which Core ML computes faster (coremltools, pass nullify_redundant_quantization_zero_point)."""


@dataclass(frozen=True)
class Code:
    """How one activation becomes 8 bits: value = scale * (integer - zero)."""

    scale: float
    """Exactly a float16, so that a cast to float16 does not move it."""
    zero: int
    dtype: str
    """"int8" or "uint8"."""


def code(low: float, high: float) -> Code:
    """The code of values between `low` <= 0 and `high` >= 0.

    Without negative values all 256 levels are given to the positive ones (uint8, zero 0); a range that is
    about symmetric is int8 with zero 0, and a lopsided one int8 with a zero point.
    """
    if low >= 0:
        return Code(_float16_above(high / 255), 0, "uint8")
    if min(-low, high) >= LOPSIDED * max(-low, high):
        return Code(_float16_above(max(-low, high) / 127), 0, "int8")
    # One step is left over for the rounding of the zero point, so that neither end is cut.
    scale = _float16_above((high - low) / 254)
    return Code(scale, max(-128, min(127, round(-128 - low / scale))), "int8")


def _float16_above(value: float) -> float:
    """The smallest positive float16 that is not below `value`; 1 for 0."""
    import numpy as np

    if value == 0:
        return 1.0
    near = np.float16(value)
    if float(near) < value or near == 0:
        near = np.nextafter(near, np.float16(np.inf))
    return float(near)


def quantize(
    model: Any, ranges: Mapping[str, Range], powers: Mapping[str, float]
) -> tuple[Any, tuple[str, ...]]:
    """The float32 model (MLModel) with its int8 activations marked, and what the user should know about it.

    `ranges` are those of the values that `observed` names, `powers` the mean squares of what `COMPUTE`
    operators give, both by value name. The weights are `weights.compress`'s affair. Raises Unsupported where
    no operator can be int8.
    """
    notes: list[str] = []

    def change(program: Any) -> None:
        chosen, coarse, left = _plan(program, ranges, powers)
        if not any(op.op_type in COMPUTE for op in chosen):
            raise Unsupported(
                "no operator of this model can compute in int8: "
                + ("8 bits hold none of their inputs" if coarse else "it has no convolution or linear layer"),
                where="--quant int8",
                mend="Choose int8-weight",
            )
        notes.append(f"int8 activations (static) in {_counted(chosen)}")
        if coarse:
            notes.append(
                "int8 weights with float16 activations, since a few huge values would swallow the range: "
                + _counted(coarse)
            )
        if left:
            notes.append(f"Left in float16, since their neighbours are: {_counted(left)}")
        _insert(chosen, ranges)

    return rewritten(model, change), tuple(notes)


def observed(kind: str) -> tuple[str, ...]:
    """The inputs of an operator of type `kind` whose ranges `quantize` wants, by their MIL names."""
    return ("x", "y") if kind == "add" else ("x",) if kind in (*COMPUTE, *FOLLOWING) else ()


def _plan(
    program: Any, ranges: Mapping[str, Range], powers: Mapping[str, float]
) -> tuple[list[Any], list[Any], list[Any]]:
    """(operators that become int8, those that could but for their activations' range, followers left behind)."""
    candidates = [op for op in operations(program) if observed(op.op_type) and _is_live(op)]
    chosen = {op for op in candidates if _sqnr_db(op, ranges, powers) >= MIN_SQNR_DB}
    changed = True
    while changed:
        lonely = {op for op in chosen if op.op_type in FOLLOWING and not _among(op, chosen)}
        chosen -= lonely
        changed = bool(lonely)
    rest = [op for op in candidates if op not in chosen]
    return (
        [op for op in candidates if op in chosen],
        [op for op in rest if op.op_type in COMPUTE],
        [op for op in rest if op.op_type in FOLLOWING],
    )


def _is_live(op: Any) -> bool:
    """Whether the operator's data is computed while running, and its weights are constant."""
    if any(op.inputs[name].val is not None for name in observed(op.op_type)):
        return False
    return op.op_type not in COMPUTE or op.inputs["weight"].val is not None


def _sqnr_db(op: Any, ranges: Mapping[str, Range], powers: Mapping[str, float]) -> float:
    """Signal to noise in dB that rounding the operator's inputs to 8 bits leaves, -inf where it cannot be said.

    For products it is that of the result: uniform noise of one step s has the power s²/12, and comes out of a
    row of weights w with s²/12 times the sum of w². A feature that is always huge makes the step coarse for all
    others, which its own power would hide.
    """
    import numpy as np

    seen = [ranges.get(op.inputs[name].name) for name in observed(op.op_type)]
    if any(one is None or one.span > LARGEST for one in seen):
        return -math.inf
    if op.op_type not in COMPUTE:
        return min(one.sqnr_db for one in seen if one)
    weight = np.asarray(op.inputs["weight"].val, np.float64)
    gain = float(np.square(weight).sum() / weight.shape[0])
    noise = sum((one.span / 255) ** 2 / 12 for one in seen if one) * gain
    power = powers.get(op.outputs[0].name)
    if power is None:
        return -math.inf
    return 10 * math.log10(power / noise) if noise and power else math.inf


def _among(op: Any, chosen: Collection[Any]) -> bool:
    """Whether all that feeds `op` and all that reads it is chosen, looking through what is fused or moves."""
    feeds = all(_source(op.inputs[name]) in (None, *chosen) for name in observed(op.op_type))
    return feeds and all(reader in chosen for reader in _readers(op))


def _source(value: Any) -> Any:
    """The operator that computed a value, what is fused or moves left out; None for an input of the model."""
    while value.op is not None and value.op.op_type in THROUGH:
        value = value.op.inputs["x"]
    return value.op


def _readers(op: Any) -> list[Any]:
    """The operators that read what `op` computes; an output of the model counts as the operator itself."""
    found = []
    for value in op.outputs:
        for reader in value.child_ops:
            found += _readers(reader) if reader.op_type in THROUGH else [reader]
    return found


def _insert(chosen: Iterable[Any], ranges: Mapping[str, Range]) -> None:
    """Give each chosen operator its inputs through a quantize and dequantize pair, one pair a value."""
    pairs: dict[Any, tuple[Any, Code]] = {}
    pooled: dict[Any, Code] = {}
    for op in chosen:
        given = {}
        for name in observed(op.op_type):
            value = op.inputs[name]
            if value not in pairs:
                seen = ranges[value.name]
                pairs[value] = _pair(value, op, pooled.get(value) or code(seen.low, seen.high))
            given[name] = pairs[value][0]
        op.set_inputs(no_check_var_types=True, **given)
        if op.op_type == "max_pool":
            # The largest of some integers is one of them: the same code again loses nothing.
            pooled[op.outputs[0]] = pairs[value][1]


def _pair(value: Any, reader: Any, how: Code) -> tuple[Any, Code]:
    """quantize and dequantize behind `value`, before the first operator that reads it in int8."""
    import numpy as np
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    dtype = np.float16 if value.dtype == types.fp16 else np.float32
    given = {"scale": dtype(how.scale), "zero_point": np.dtype(how.dtype).type(how.zero), "before_op": reader}
    if how.zero == 0:
        del given["zero_point"]
    with reader.enclosing_block:
        stored = mb.quantize(input=value, output_dtype=how.dtype, name=f"{value.name}_{how.dtype}", **given)
        read = mb.dequantize(input=stored, name=f"{value.name}_{how.dtype}_read", **given)
    return read, how


def _counted(ops: Iterable[Any]) -> str:
    counts = collections.Counter(op.op_type for op in ops)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
