"""What a TensorFlow operator costs: op class and operations from its shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from .. import flops
from .graph import Node

Shape = tuple[int, ...]

VIEWS = frozenset(("Reshape", "Squeeze", "ExpandDims"))
"""Operators whose output shares the input's memory."""

_CLASSES: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "norm": "FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 LRN",
        "softmax": "Softmax LogSoftmax",
        "pool": """AvgPool AvgPool3D MaxPool MaxPoolV2 MaxPool3D Mean Max Min Sum Prod All
            Any ArgMax ArgMin TopKV2 EuclideanNorm""",
        "movement": """Reshape Squeeze ExpandDims Transpose Concat ConcatV2 Pack Unpack Split
            SplitV Slice StridedSlice Pad PadV2 MirrorPad Tile Fill Range Shape ShapeN Size Rank
            Cast Bitcast BroadcastTo OneHot ZerosLike OnesLike ReverseV2 Reverse ReverseSequence
            GatherNd ScatterNd SpaceToBatchND BatchToSpaceND SpaceToDepth DepthToSpace Where
            SelectV2 Select MatrixBandPart BroadcastArgs ConcatOffset InvertPermutation
            TensorScatterUpdate LinSpace DynamicStitch""",
        "elementwise": """Abs Add AddN AddV2 BiasAdd Ceil ClipByValue Cos Cumsum Div DivNoNan Elu
            Equal Erf Erfc Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual IsFinite IsInf
            IsNan LeakyRelu Less LessEqual Log Log1p LogicalAnd LogicalNot LogicalOr Maximum
            Minimum Mod Mul MulNoNan Neg NotEqual Pow RealDiv Reciprocal Relu Relu6 Round Rsqrt
            Selu Sigmoid Sign Sin Softplus Softsign Sqrt Square SquaredDifference Sub Tan Tanh
            ResizeNearestNeighbor ResizeBilinear FakeQuantWithMinMaxVars
            FakeQuantWithMinMaxVarsPerChannel FakeQuantWithMinMaxArgs""",
    }.items()
}


def op_class(op: str, stored: Sequence[bool]) -> str:
    """The kernel class of a TensorFlow operator; `stored[i]` says whether input i comes from weights."""
    if op in ("Conv2D", "Conv3D", "Conv2DBackpropInput", "Conv3DBackpropInputV2"):
        return "conv"
    if op == "DepthwiseConv2dNative":
        return "depthwise"
    if op in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"):
        return "gemm" if any(stored) else "matmul"
    if op in ("GatherV2", "Gather", "ResourceGather"):
        return "embedding" if stored and stored[0] else "movement"
    return next((name for name, words in _CLASSES.items() if op in words), "unknown")


def operations(node: Node, kind: str, inputs: Sequence[Shape | None], out: Shape | None) -> int | None:
    """Operations of a node of class `kind`; None when a shape or the operator is unknown."""
    try:
        if node.op in _COSTS:
            return _COSTS[node.op](node, inputs, out)
        if kind == "pool":
            return None if not inputs or inputs[0] is None else prod(inputs[0])
        if kind in ("movement", "embedding"):
            return 0
        return None if out is None else flops.per_element(kind, out)
    except (IndexError, ValueError):
        # Shapes of the wrong rank: what such a node does is unknown, and TensorFlow will refuse it.
        return None


def _conv(node: Node, inputs: Sequence[Shape | None], out: Shape | None) -> int | None:
    kernel = inputs[1]
    return None if kernel is None or out is None else flops.conv(out, kernel[-2], kernel[:-2])


def _depthwise(node: Node, inputs: Sequence[Shape | None], out: Shape | None) -> int | None:
    kernel = inputs[1]
    return None if kernel is None or out is None else flops.conv(out, 1, kernel[:2])


def _transposed(node: Node, inputs: Sequence[Shape | None], out: Shape | None) -> int | None:
    """Conv2DBackpropInput(sizes, kernel HWOI, data): each input element feeds one kernel per output channel."""
    kernel, data = inputs[1], inputs[2]
    if kernel is None or data is None:
        return None
    return flops.conv_transpose(data, kernel[-2], kernel[:-2])


def _matmul(node: Node, inputs: Sequence[Shape | None], out: Shape | None) -> int | None:
    left, right = inputs[0], inputs[1]
    if left is None or right is None:
        return None
    if node.flag("transpose_a") or node.flag("adj_x"):
        left = (*left[:-2], left[-1], left[-2])
    if node.flag("transpose_b") or node.flag("adj_y"):
        right = (*right[:-2], right[-1], right[-2])
    return flops.matmul(left, right)


def _einsum(node: Node, inputs: Sequence[Shape | None], out: Shape | None) -> int | None:
    return flops.einsum(node.text("equation"), inputs)


def _pool(node: Node, inputs: Sequence[Shape | None], out: Shape | None) -> int | None:
    return None if out is None else flops.pool(out, node.integers("ksize"))


_COSTS: dict[str, Callable[[Node, Sequence[Shape | None], Shape | None], int | None]] = {
    "Conv2D": _conv,
    "Conv3D": _conv,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "Conv3DBackpropInputV2": _transposed,
    "Einsum": _einsum,
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), _matmul),
    **dict.fromkeys(("AvgPool", "AvgPool3D", "MaxPool", "MaxPool3D"), _pool),
}
