"""Weights in fewer bits: int8 per channel, int4 in blocks, and palettes; everything else stays as it is."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ....targets.errors import ConversionFailed, Unsupported, UsageError
from . import blocks, palette
from .activations import COMPUTE
from .options import DEPLOYMENT_TARGETS, LEAST_TARGET
from .rewrite import operations, rewritten

READERS: dict[str, tuple[str, ...]] = {
    "conv": ("weight",),
    "conv_transpose": ("weight",),
    "linear": ("weight",),
    "matmul": ("x", "y"),
    "gather": ("x",),
    "gru": ("weight_ih", "weight_hh"),
    "lstm": ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back"),
    "rnn": ("weight_ih", "weight_hh"),
}
"""The inputs that are weights, by MIL op type: what multiplies, and tables of embeddings. Norms, biases, masks and
position codes are few and sensitive, and stay in float."""

BLOCK, LEAST_BLOCK = 32, 16
"""Weights along the input axis that share a scale in int4: the largest divisor of the axis from 16 to 32."""

GROUP = 32
"""Output channels that share a palette (iOS 18; one palette a tensor before)."""

LEAST_ELEMENTS = 1024
"""Below it the description of a compressed weight takes as many bytes as it saves."""

STORED_APART = 10
"""coremltools writes smaller constants into the program's text, and compresses none of those."""

VERSIONS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9}
"""Specification versions of the systems' operators."""


@dataclass(frozen=True)
class Weight:
    """One constant that is a weight, and how it will be stored."""

    name: str
    shape: tuple[int, ...]
    readers: tuple[str, ...]
    """Op types that read it."""
    form: str
    """"int8", "int4" or "palette", or "" where it stays in float."""
    block: int = 0
    """int4: weights that share a scale; palettes: output channels that share one (0: all)."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def palette_bits(scheme: str) -> int | None:
    """Width of the indices of a palette scheme ("palette4", or "palettized" for 4 bits), None for other schemes.

    Raises UsageError for a width that Core ML does not store.
    """
    if scheme == "palettized":
        return 4
    found = re.fullmatch(r"palette(\d+)", scheme)
    if found is None:
        return None
    bits = int(found[1])
    if bits not in palette.BITS:
        raise UsageError(
            f"there is no palette of {bits} bits",
            where=f"--quant {scheme}",
            mend=f"Known are {', '.join(f'palette{width}' for width in palette.BITS)}",
        )
    return bits


def least_target(scheme: str) -> str:
    """The first deployment target that can read the scheme's operators, as in "iOS18"."""
    return LEAST_TARGET.get("palette" if palette_bits(scheme) else scheme, DEPLOYMENT_TARGETS[0])


def check(model: Any, scheme: str) -> None:
    """Refuse a scheme whose operators the model's deployment target does not have, before any work is done.

    Raises UsageError for a palette of unknown width, Unsupported otherwise.
    """
    least = least_target(scheme)
    if model.get_spec().specificationVersion < VERSIONS[least]:
        raise Unsupported(
            f"{scheme} needs the operators of {least}",
            where="--deployment-target",
            mend=f"Choose {least} or later, or another scheme",
        )


def compress(model: Any, scheme: str) -> tuple[Any, tuple[str, ...]]:
    """The model (MLModel) with its weights in `scheme`, and what the user should know about it.

    Args:
        model: an ML program in float.
        scheme: "int8-weight", "int4-weight" or "paletteN"; "int8" reaches small weights of convolutions and linear
            layers too, since integer arithmetic needs them.

    Raises:
        Unsupported: the scheme would leave most weights in float, or needs a later system.
    """
    check(model, scheme)
    bits = palette_bits(scheme)
    grouped = model.get_spec().specificationVersion >= VERSIONS["iOS18"]
    chosen: list[Weight] = []

    def change(program: Any) -> None:
        chosen.extend(_plan(program, scheme, grouped=grouped))
        _refuse_mostly_float(chosen, scheme)
        _apply(program, chosen, bits)

    made = rewritten(model, change)
    return made, _notes(chosen, bits)


def _plan(program: Any, scheme: str, *, grouped: bool) -> Iterator[Weight]:
    """Every weight of the program with the form that it gets."""
    for op in operations(program):
        if op.op_type != "const" or not _is_weight(op):
            continue
        value = op.outputs[0]
        readers = tuple(sorted({child.op_type for child in value.child_ops}))
        integer = scheme == "int8" and set(readers) <= set(COMPUTE)
        form, block = "", 0
        if value.val.size >= (STORED_APART if integer else LEAST_ELEMENTS):
            form, block = _form(op, scheme, grouped)
        yield Weight(op.name, tuple(value.shape), readers, form, block)


def _is_weight(op: Any) -> bool:
    import numpy as np

    value = op.outputs[0]
    array = value.val
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim < 2 or not value.child_ops:
        return False
    return all(
        any(child.inputs.get(name) is value for name in READERS.get(child.op_type, ()))
        for child in value.child_ops
    )


def _form(op: Any, scheme: str, grouped: bool) -> tuple[str, int]:
    """How a weight is stored: (form, block). int8 steps in where int4 finds no blocks of equal size."""
    from coremltools.optimize import _utils

    shape = op.outputs[0].shape
    input_axis, output_axis = _utils.select_input_output_channel_axis(op)
    if palette_bits(scheme):
        # A table shared by few channels follows them more closely, and takes 2^bits numbers for each such group.
        if grouped and output_axis is not None and shape[output_axis] % GROUP == 0:
            return "palette", GROUP
        return "palette", 0
    if input_axis is None or output_axis is None:
        return "", 0
    if scheme == "int4-weight":
        block = _block(int(shape[input_axis]))
        if block:
            return "int4", block
    return "int8", 0


def _block(size: int) -> int:
    """The largest divisor of an axis that is a block, or 0."""
    return next((block for block in range(BLOCK, LEAST_BLOCK - 1, -1) if size % block == 0), 0)


def _apply(program: Any, chosen: Iterable[Weight], bits: int | None) -> None:
    """Replace each chosen constant by its compressed form, with coremltools' own passes."""
    import coremltools.optimize.coreml as cto
    from coremltools.optimize.coreml import _quantization_passes as passes

    linear, tables = cto.OptimizationConfig(), cto.OptimizationConfig()
    for weight in chosen:
        if weight.form == "palette":
            assert bits is not None
            granularity = "per_grouped_channel" if weight.block else "per_tensor"
            tables.set_op_name(
                weight.name,
                cto.OpPalettizerConfig(
                    mode="custom",
                    lut_function=partial(palette.palette, bits=bits),
                    granularity=granularity,
                    group_size=weight.block or GROUP,
                    weight_threshold=0,
                ),
            )
        elif weight.form:
            given = {"dtype": weight.form, "mode": "linear_symmetric", "weight_threshold": 0}
            if weight.block:
                given |= {"granularity": "per_block", "block_size": weight.block}
            linear.set_op_name(weight.name, cto.OpLinearQuantizerConfig(**given))
    if bits is None:
        _linear_pass()(linear).apply(program)
    else:
        passes.palettize_weights(tables).apply(program)
    # Where coremltools cannot do as it was told, it says so in its log alone.
    asked = {weight.name for weight in chosen if weight.form}
    left = [op.name for op in operations(program) if op.op_type == "const" and op.name in asked]
    if left:
        raise ConversionFailed(f"coremltools left {', '.join(left[:5])} in float", where="weights")


def _linear_pass() -> Any:
    """coremltools' pass with a search for int4's scales: its own takes the largest weight of a block for it."""
    from coremltools.converters.mil.mil import types
    from coremltools.optimize import _utils
    from coremltools.optimize.coreml import _quantization_passes as passes

    class Searching(passes.linear_quantize_weights):
        @classmethod
        def blockwise_compress_by_dtype(
            cls, original_data: Any, dtype: Any, mode: str, block_sizes: Any
        ) -> Any:
            if dtype != types.int4:
                return super().blockwise_compress_by_dtype(original_data, dtype, mode, block_sizes)
            integers, scales = blocks.quantized(original_data, block_sizes)
            stored = integers.astype(types.nptype_from_builtin(types.int4))
            return _utils.QuantParams(data=stored, scale=scales, offset=None, nbits=4)

    return Searching


def _refuse_mostly_float(weights: Iterable[Weight], scheme: str) -> None:
    """Raise Unsupported where less than half of the weights' elements get the scheme's own form."""
    wanted = {"int4-weight": "int4"}.get(scheme, "palette" if palette_bits(scheme) else "int8")
    reached = sum(weight.elements for weight in weights if weight.form == wanted)
    total = sum(weight.elements for weight in weights)
    if total and reached * 2 <= total:
        raise Unsupported(
            f"{scheme} would reach {reached / total:.0%} of this model's weights: the others are too small, or "
            f"their input axis has no blocks of {LEAST_BLOCK} to {BLOCK}",
            where=f"--quant {scheme}",
            mend="Choose int8-weight" if wanted == "int4" else "Choose fp16",
        )


def _notes(weights: list[Weight], bits: int | None) -> tuple[str, ...]:
    """One sentence for each form that occurs, with the weights that it holds."""
    told = {
        "int8": "int8 weights, one scale an output channel",
        "int4": f"int4 weights, one scale for {LEAST_BLOCK} to {BLOCK} along the input axis",
        "palette": f"weights as indices of {bits} bits into palettes by exact k-means",
        "": "weights left in float, since they are small or have no channel axis",
    }
    notes = []
    for form, text in told.items():
        of_form = [weight for weight in weights if weight.form == form]
        if of_form:
            notes.append(f"{text[0].upper()}{text[1:]}: {_counted(of_form)}")
    return tuple(notes)


def _counted(weights: list[Weight]) -> str:
    """As in "52 conv, 1 linear (3,469,760 elements)"."""
    kinds = collections.Counter("/".join(weight.readers) for weight in weights)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{listed} ({sum(weight.elements for weight in weights):,} elements)"
