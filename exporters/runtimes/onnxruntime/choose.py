"""Which operators a scheme reaches in a graph, and what it should leave in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx

from ....targets.errors import Unsupported
from ...onnx.graph import float_weights, readers

PRODUCTS = ("Conv", "Gemm", "MatMul")
WHOLE = (
    *PRODUCTS, "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool",
    "GlobalAveragePool", "Concat", "Split", "Slice", "Pad", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
    "Flatten", "Resize",
)  # fmt: skip
"""Operators for which ONNX Runtime's CPU provider has 8-bit kernels, or which only move values."""
REACHED = {
    "int8": (*PRODUCTS, "Gather"),
    "int8-dynamic": ("Gemm", "MatMul", "Gather"),
    "int4-weight": ("Gemm", "MatMul", "Gather"),
}
"""Operators whose weights each scheme narrows."""
ENOUGH = 0.5
"""Share of the weights that a scheme must reach: below it, the file is not what was asked for."""


def reach(model: onnx.ModelProto, operators: Collection[str]) -> tuple[float, tuple[str, ...]]:
    """Share of the float weights with two or more axes that only `operators` read, and who reads the rest.

    The share is 1.0 for a model without such weights; the names come heaviest first.
    """
    reads = readers(model)
    left: Counter[str] = Counter()
    total = reached = 0
    for name, tensor in float_weights(model).items():
        if len(tensor.dims) < 2 or name not in reads:
            continue
        elements = int(np.prod(tensor.dims))
        total += elements
        kinds = {node.op_type for node, _ in reads[name]}
        if kinds <= set(operators):
            reached += elements
        else:
            left.update(dict.fromkeys(kinds, elements))
    return (reached / total if total else 1.0), tuple(name for name, _ in left.most_common())


def require_reach(model: onnx.ModelProto, scheme: str) -> None:
    """Raise Unsupported, naming operators and the nearest scheme, where `scheme` reaches less than half."""
    share, left = reach(model, REACHED[scheme])
    if share >= ENOUGH:
        return
    static = reach(model, REACHED["int8"])[0] >= ENOUGH
    raise Unsupported(
        f"{scheme} would leave {1 - share:.0%} of this model's weights in float: it does not reach "
        f"{', '.join(left[:4])}",
        where=f"--quant {scheme}",
        mend=f"The nearest scheme that does is {'int8, with --calibration' if static else 'fp16'}",
    )
