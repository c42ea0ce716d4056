"""Counts a Core ML package: weights by stored dtype, multiply-accumulates by the dtype that the program computes in.

Weights are the stored float tensors of more than one element that operators read, and the stored integers of the
`constexpr_` operators that expand them (palettes count by the bits of their indices). Scales, offsets, palettes and
masks are parameters of the quantization and are left out, and so are shapes, axes and other integers.
Multiply-accumulates are those of one inference at the program's own shapes, with free sizes as 1. A product counts as
int8 where both sides are quantized to 8 bits: that is what Core ML may compute in int8 (the Neural Engine from the
A17 Pro and the M4 on).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...mil.blobs import packed_bytes
from ...mil.package import open_package
from ...mil.program import Block, Constant, Operation, Reference, ValueType
from . import Audit
from .mlpackage_macs import multiply_accumulates

NAMES = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "bf16": "bfloat16"}
FLOATS = frozenset(NAMES)

DATA: Mapping[str, tuple[str, ...]] = {
    "constexpr_affine_dequantize": ("quantized_data",),
    "constexpr_blockwise_shift_scale": ("data",),
    "constexpr_lut_to_dense": ("indices",),
    "constexpr_lut_to_sparse": ("indices_nonzero_data",),
    "constexpr_sparse_to_dense": ("nonzero_data",),
    "constexpr_sparse_blockwise_shift_scale": ("nonzero_data",),
    "constexpr_cast": ("source_val",),
}
"""The input that holds the weights themselves, by the operator that expands them."""

EIGHT_BITS = frozenset({"int8", "uint8"})
SHAPES_ONLY = frozenset(
    {"reshape", "transpose", "expand_dims", "squeeze", "cast", "identity", "slice_by_index", "split"}
)
"""Operators that hand a value on as it is."""


@dataclass(frozen=True)
class Stored:
    """One stored weight: an identity, its dtype by modelport's name, and its bytes."""

    key: int
    dtype: str
    nbytes: int


@dataclass
class _Wiring:
    """What makes each value of the program, and of which type it is."""

    types: dict[str, ValueType] = field(default_factory=dict)
    made: dict[str, Operation] = field(default_factory=dict)

    def constant(self, argument: Reference | Constant) -> Constant | None:
        """The stored constant that an argument is, itself or through a `const`."""
        if isinstance(argument, Constant):
            return argument
        maker = self.made.get(argument.name)
        return maker.attributes.get("val") if maker is not None and maker.type == "const" else None

    def weight(self, argument: Reference | Constant) -> Stored | None:
        """The weight that an argument reads, also through the operators that expand it; None for other values."""
        maker = self.made.get(argument.name) if isinstance(argument, Reference) else None
        if maker is not None and maker.type.startswith("constexpr_"):
            return self._expanded(maker)
        constant = self.constant(argument)
        if constant is None or constant.type.dtype not in FLOATS or _elements(constant.type) <= 1:
            return None
        return _stored(None, constant)

    def _expanded(self, maker: Operation) -> Stored | None:
        for name in DATA.get(maker.type, ()):
            if name in maker.attributes:
                return _stored(maker, maker.attributes[name])
            for argument in maker.inputs.get(name, ()):
                inner = self.weight(argument)
                if inner is not None:
                    return inner
                constant = self.constant(argument)
                if constant is not None:
                    return _stored(maker, constant)
        return None

    def quantized(self, argument: Reference | Constant) -> str | None:
        """The integer dtype that a value was dequantized from, or None."""
        while isinstance(argument, Reference) and argument.name in self.made:
            maker = self.made[argument.name]
            if maker.type == "dequantize":
                given = maker.inputs["input"][0]
                constant = self.constant(given)
                if constant is not None:
                    return constant.type.dtype
                return self.types[given.name].dtype if isinstance(given, Reference) else None
            if maker.type.startswith("constexpr_"):
                stored = self._expanded(maker)
                return stored.dtype if stored is not None else None
            if maker.type not in SHAPES_ONLY or "x" not in maker.inputs:
                return None
            argument = maker.inputs["x"][0]
        return None


def _stored(maker: Operation | None, data: Constant) -> Stored:
    """A weight, with the bytes of its values alone, wherever the file keeps them."""
    dtype = data.type.dtype
    nbytes = packed_bytes(_elements(data.type), dtype)
    if maker is not None and maker.type == "constexpr_lut_to_dense" and "lut" in maker.attributes:
        # iOS16 and 17 pack the indices into bytes: their width is that of the palette.
        entries = _elements(maker.attributes["lut"].type)
        dtype = f"uint{max(1, math.ceil(math.log2(max(entries, 2))))}"
    return Stored(id(data), NAMES.get(dtype, dtype), nbytes)


def _elements(kind: ValueType) -> int:
    return math.prod(size or 1 for size in kind.shape)


def _operations(block: Block) -> Iterator[tuple[Block, Operation]]:
    """Every operation, those of nested blocks included, with the block that it stands in."""
    for operation in block.operations:
        yield block, operation
        for inner in operation.blocks:
            yield from _operations(inner)


def count(path: Path) -> Audit:
    """Count the package at `path`, function "main"; no weight is read."""
    function = open_package(path).program.main
    wiring = _Wiring({given.name: given.type for given in function.inputs})
    operations = []
    for block, operation in _operations(function.block):
        wiring.types.update((given.name, given.type) for given in block.inputs)
        wiring.types.update((output.name, output.type) for output in operation.outputs)
        wiring.made.update((output.name, operation) for output in operation.outputs)
        operations.append(operation)
    weights: dict[int, Stored] = {}
    macs: Counter[str] = Counter()
    left: list[tuple[int, int, str]] = []
    quantizes = any(operation.type == "quantize" for operation in operations)
    computing = [op for op in operations if op.type != "const" and not op.type.startswith("constexpr_")]
    for operation in computing:
        arguments = [argument for several in operation.inputs.values() for argument in several]
        own = [stored for argument in arguments if (stored := wiring.weight(argument)) is not None]
        weights.update((stored.key, stored) for stored in own)
        amount = multiply_accumulates(operation, wiring.types, wiring.constant)
        computed = _compute_dtype(operation, wiring) if amount else ""
        macs[computed] += amount
        floating = sum(stored.nbytes for stored in own if stored.dtype in NAMES.values())
        narrow = any(stored.dtype not in NAMES.values() for stored in own)
        # Products of narrow weights in float are what weight-only schemes ask for.
        products = amount and computed != "int8" and (quantizes or not narrow)
        if products or (floating and operation.type == "gather"):
            left.append((-amount, -floating, f"{operation.type} {operation.name!r}"))
    by_dtype: Counter[str] = Counter()
    for stored in weights.values():
        by_dtype[stored.dtype] += stored.nbytes
    return Audit(
        weight_bytes=dict(sorted(by_dtype.items())),
        macs={dtype: amount for dtype, amount in sorted(macs.items()) if amount},
        operators=dict(sorted(Counter(operation.type for operation in computing).items())),
        float_ops=tuple(name for _, _, name in sorted(left)),
        file_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    )


def _compute_dtype(operation: Operation, wiring: _Wiring) -> str:
    """The dtype that an operator with products computes in."""
    sides = [operation.inputs[name][0] for name in ("x", "y", "weight") if operation.inputs.get(name)]
    if len(sides) > 1 and all(wiring.quantized(side) in EIGHT_BITS for side in sides):
        return "int8"
    dtype = operation.outputs[0].type.dtype
    return NAMES.get(dtype, dtype)
