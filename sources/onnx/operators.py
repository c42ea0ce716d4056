"""What an ONNX operator costs: op class and operations from its shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from .. import flops
from .graph import Node

Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ELEMENTWISE = _words("""
Abs Acos Acosh Add And Asin Asinh Atan Atanh BiasGelu BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
Ceil Celu Clip Cos Cosh CumSum Div Elu Equal Erf Exp FastGelu Floor Gelu Greater GreaterOrEqual
HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or
PRelu Pow QLinearAdd QLinearLeakyRelu QLinearMul QLinearSigmoid QuickGelu Reciprocal Relu Round Selu
Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
BiasAdd BiasSplitGelu Binarizer Scaler Normalizer
""")
_MOVEMENT = _words("""
Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace DequantizeLinear Dropout
DynamicQuantizeLinear Expand EyeLike Flatten GatherElements GatherND Identity NonZero OneHot Pad
QLinearConcat QuantizeLinear Range Reshape ReverseSequence ScatterElements ScatterND Shape Size Slice
SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze CenterCropPad TensorScatter
""")
_NORM = _words("""
BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization LRN
MeanVarianceNormalization RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization
SkipSimplifiedLayerNormalization GroupNorm
""")
_REDUCE = _words("""
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare ArgMax ArgMin TopK
""")
_POOL = _words("AveragePool MaxPool LpPool QLinearAveragePool")
_GLOBAL_POOL = _words("GlobalAveragePool GlobalMaxPool GlobalLpPool QLinearGlobalAveragePool")
_SOFTMAX = _words("Softmax LogSoftmax Hardmax QLinearSoftmax")

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""Operators whose output shares the input's memory."""

PASSES_WEIGHTS = frozenset(
    {"Identity", "Cast", "Transpose", "Reshape", "DequantizeLinear", "QuantizeLinear", *VIEWS}
)
"""Operators that hand a stored weight on unchanged, or nearly: their result still counts as that weight."""


def op_class(node: Node, constant: Sequence[bool]) -> str:
    """The kernel class of a node; `constant[i]` says whether input i is a stored weight."""
    op = node.op
    if op in (
        "Conv",
        "ConvTranspose",
        "ConvInteger",
        "QLinearConv",
        "FusedConv",
        "NhwcFusedConv",
        "DeformConv",
    ):
        return "conv"
    if op in ("Gemm", "FusedGemm", "QGemm", "MatMulNBits"):
        return "gemm"
    if op in _MATMUL_OPERANDS:
        left, right = _MATMUL_OPERANDS[op]
        return "gemm" if any(constant[n] for n in (left, right) if n < len(constant)) else "matmul"
    if op in ("Einsum", "Attention") or (op == "MultiHeadAttention" and node.domain):
        return "matmul"
    if op == "Gather":
        return "embedding" if constant and constant[0] else "movement"
    for names, name in _CLASSES:
        if op in names:
            return name
    return "unknown"


def operations(node: Node, kind: str, inputs: Shapes, outputs: Shapes) -> int | None:
    """Operations of a node of class `kind`; None when a shape or the operator is unknown."""
    out = outputs[0] if outputs else None
    try:
        if node.op in _COSTS:
            return _COSTS[node.op](node, inputs, out)
        if node.op in _REDUCE or node.op in _GLOBAL_POOL:
            return None if not inputs or inputs[0] is None else prod(inputs[0])
        if out is None:
            return 0 if kind in ("movement", "embedding") else None
        return flops.per_element(kind, out)
    except (IndexError, ValueError):
        # Shapes of the wrong rank: what such a node does is unknown, and a runtime will refuse it.
        return None


def _conv(node: Node, inputs: Shapes, out: Shape | None) -> int | None:
    weight = inputs[3] if node.op == "QLinearConv" else inputs[1]
    if weight is None:
        return None
    if node.op == "ConvTranspose":
        data = inputs[0]
        return None if data is None else flops.conv_transpose(data, weight[1], weight[2:])
    return None if out is None else flops.conv(out, weight[1], weight[2:])


def _gemm(node: Node, inputs: Shapes, out: Shape | None) -> int | None:
    data = inputs[0]
    if data is None or out is None or len(data) != 2 or len(out) != 2:
        return None
    return flops.gemm(out[0], data[0] if node.integer("transA", 0) else data[1], out[1])


def _matmul(node: Node, inputs: Shapes, out: Shape | None) -> int | None:
    left, right = (inputs[n] for n in _MATMUL_OPERANDS[node.op])
    if node.op == "FusedMatMul" and left and right:
        if node.integer("transA", 0):
            left = (*left[:-2], left[-1], left[-2])
        if node.integer("transB", 0):
            right = (*right[:-2], right[-1], right[-2])
    return None if left is None or right is None else flops.matmul(left, right)


def _matmul_nbits(node: Node, inputs: Shapes, out: Shape | None) -> int | None:
    inner, columns = node.integer("K", 0), node.integer("N", 0)
    return None if out is None or not columns else flops.gemm(prod(out) // columns, inner, columns)


def _einsum(node: Node, inputs: Shapes, out: Shape | None) -> int | None:
    return flops.einsum(node.string("equation"), inputs)


def _attention(node: Node, inputs: Shapes, out: Shape | None) -> int | None:
    """ai.onnx Attention (opset 23): Q, K, V of rank 4, or of rank 3 with the heads in an attribute."""
    if node.domain or len(inputs) < 3 or any(shape is None for shape in inputs[:3]):
        return None
    query, key, value = (shape for shape in inputs[:3] if shape is not None)
    if len(query) == 4:
        return flops.attention(query[0] * query[1], query[2], key[2], query[3], value[3])
    heads, kv_heads = node.integer("q_num_heads", 0), node.integer("kv_num_heads", 0)
    if not heads or not kv_heads:
        return None
    per_head = (query[2] // heads, value[2] // kv_heads)
    return flops.attention(query[0] * heads, query[1], key[1], *per_head)


def _recurrent(node: Node, inputs: Shapes, out: Shape | None) -> int | None:
    data, units = inputs[0], node.integer("hidden_size", 0)
    if data is None or len(data) != 3 or not units:
        return None
    steps, batch = data[:2] if not node.integer("layout", 0) else (data[1], data[0])
    directions = 2 if node.string("direction") == "bidirectional" else 1
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[node.op]
    return directions * batch * flops.recurrent(steps, data[2], units, gates)


def _pool(node: Node, inputs: Shapes, out: Shape | None) -> int | None:
    return None if out is None else flops.pool(out, node.integers("kernel_shape"))


def _resize(node: Node, inputs: Shapes, out: Shape | None) -> int | None:
    """Nearest copies; linear and cubic mix 2 or 4 values along each of two axes."""
    taps = {"linear": 4, "cubic": 16}.get(node.string("mode"), 0)
    return None if out is None else taps * prod(out)


_MATMUL_OPERANDS = {"MatMul": (0, 1), "FusedMatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}

_COSTS: dict[str, Callable[[Node, Shapes, Shape | None], int | None]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv"), _conv),
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm"), _gemm),
    **dict.fromkeys(_MATMUL_OPERANDS, _matmul),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(_POOL, _pool),
    "MatMulNBits": _matmul_nbits,
    "Einsum": _einsum,
    "Attention": _attention,
    "Resize": _resize,
    "Upsample": _resize,
}

_CLASSES: tuple[tuple[frozenset[str], str], ...] = (
    (_ELEMENTWISE | {"Resize", "Upsample", "GridSample"}, "elementwise"),
    (_MOVEMENT, "movement"),
    (_NORM, "norm"),
    (_SOFTMAX, "softmax"),
    (_REDUCE | _POOL | _GLOBAL_POOL, "pool"),
    (frozenset({"LSTM", "GRU", "RNN"}), "recurrent"),
)
