"""Counts a StableHLO program: weights by stored dtype, multiply-accumulates by the dtype that a TPU multiplies in."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import stablehlo_files
from . import Audit

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' names of float dtypes. Integers in the file are places and masks, not weights."""

LENGTH = 128
"""Elements along a free axis that is no batch."""


def count(path: Path) -> Audit:
    """Count the program at batch 1 and 128 tokens, and the weights beside it.

    A product of float32 counts as float32 only where the program asks for it (precision HIGHEST): without that, a
    TPU rounds both operands to bfloat16. Loops count as one turn.
    """
    opened = stablehlo_files.open_program(path)
    weights: collections.Counter[str] = collections.Counter()
    for entry in opened.header.values():
        if entry["dtype"] in FLOATS:
            low, high = entry["data_offsets"]
            weights[FLOATS[entry["dtype"]]] += high - low
    macs: collections.Counter[str] = collections.Counter()
    operators: collections.Counter[str] = collections.Counter()
    float_ops: list[str] = []
    for op in _operators(_at_one(opened).operation):
        kind = op.name.removeprefix("stablehlo.")
        operators[kind] += 1
        products = MULTIPLYING[kind](op) if kind in MULTIPLYING else 0
        if products:
            dtype = _computed_in(op)
            macs[dtype] += products // opened.mesh[0]
            if dtype == "float32":
                float_ops.append(f"{kind} {_label(op)!r}")
    size = path.stat().st_size + (path.parent / stablehlo_files.WEIGHTS).stat().st_size
    return Audit(dict(weights), dict(+macs), dict(operators), tuple(float_ops), size)


def _at_one(opened: stablehlo_files.Opened) -> Any:
    """The program (an MLIR module) with its free axes fixed, every shape static."""
    import jax
    from jax._src.interpreters import mlir  # what jax itself refines a program with before it compiles it

    places = opened.places()
    (weights, _), _ = jax.tree.unflatten(opened.program.in_tree, opened.program.in_avals)
    shardings = places[1] if isinstance(places[1], dict) else {}
    given = {
        name: jax.ShapeDtypeStruct(_fixed(aval.shape), aval.dtype, sharding=shardings.get(name))
        for name, aval in opened.inputs.items()
    }
    if isinstance(places[0], dict):
        weights = {
            name: jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=places[0][name])
            for name, aval in weights.items()
        }
    lowered = jax.jit(opened.program.call).lower(weights, given)
    return mlir.refine_polymorphic_shapes(lowered.compiler_ir("stablehlo"))


def _fixed(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape with a batch of 1, or of the least that a mesh divides, and 128 along other free axes."""
    from jax import export

    sizes: list[int] = []
    for length in shape:
        if isinstance(length, int):
            sizes.append(length)
            continue
        text = re.sub(r"[A-Za-z_]\w*", _example, str(length))
        (fixed,) = export.symbolic_shape(text)
        sizes.append(int(fixed))
    return tuple(sizes)


def _example(word: re.Match[str]) -> str:
    return "1" if word[0] == "batch" else str(LENGTH)


def _operators(op: Any) -> Iterator[Any]:
    """Every StableHLO operator inside another, in order; of a switch (by platform), one branch runs."""
    for region in list(op.regions)[: 1 if op.name == "stablehlo.case" else None]:
        for block in region:
            for inner in block:
                operation = inner.operation
                if operation.name.startswith("stablehlo.") and operation.name != "stablehlo.return":
                    yield operation
                yield from _operators(operation)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in value.type.shape)


def dot(op: Any) -> int:
    """Multiply-accumulates of dot_general: every output element sums the contracted lengths."""
    from jax.extend.mlir.dialects import stablehlo

    numbers = stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    first = _shape(op.operands[0])
    contracted = [first[int(axis)] for axis in numbers.lhs_contracting_dimensions]
    return math.prod(_shape(op.results[0])) * math.prod(contracted)


def convolution(op: Any) -> int:
    """Multiply-accumulates of a convolution: kernel area × input channels of its group, an output element.

    Of a transposed one (its input dilated): kernel area × output channels of its group, an input element.
    """
    from jax.extend.mlir.dialects import stablehlo

    numbers = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    kernel = _shape(op.operands[1])
    area = math.prod(kernel[int(axis)] for axis in numbers.kernel_spatial_dimensions)
    dilated = "lhs_dilation" in op.attributes and any(int(by) > 1 for by in op.attributes["lhs_dilation"])
    if dilated:
        outputs = kernel[int(numbers.kernel_output_feature_dimension)]
        groups = int(op.attributes["feature_group_count"].value)
        return math.prod(_shape(op.operands[0])) * area * outputs // groups
    return math.prod(_shape(op.results[0])) * area * kernel[int(numbers.kernel_input_feature_dimension)]


MULTIPLYING = {"dot_general": dot, "convolution": convolution}

NAMES: Mapping[str, str] = {
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "i32": "int32",
}


def _computed_in(op: Any) -> str:
    """The dtype that a TPU multiplies in."""
    kind = str(op.operands[0].type.element_type)
    asked = str(op.attributes["precision_config"]) if "precision_config" in op.attributes else ""
    return "bfloat16" if kind == "f32" and "HIGHEST" not in asked else NAMES.get(kind, kind)


def _label(op: Any) -> str:
    """Where the operator stands in the model: "encoder.layer.0.attention/linear_3"."""
    found = re.findall(r'"([^"]*)"', str(op.location))
    parts = [part for part in (found[0] if found else "").split("/") if not part.startswith("jit(")]
    return "/".join(parts[:-1] or parts)
