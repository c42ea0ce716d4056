"""Operators of torch's graphs by kernel class, and the arithmetic of those that compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from .. import flops

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Shapes of a node's tensor arguments, by the argument's name in the operator's schema."""


def _split(names: str) -> frozenset[str]:
    return frozenset(names.split())


VIEWS = _split(
    "view reshape flatten unflatten squeeze unsqueeze transpose permute t numpy_T expand expand_as select slice "
    "narrow split split_with_sizes chunk unbind detach alias view_as _unsafe_view diagonal movedim swapaxes "
    "dropout feature_dropout alpha_dropout lift_fresh _reshape_alias unsafe_chunk unsafe_split as_strided lift "
    "real imag view_as_real view_as_complex identity"
)
"""Operators whose outputs share their first input's memory. Dropout is one: exports are made for inference."""
COPIES = _split(
    "clone contiguous cat concat stack pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad2d "
    "repeat repeat_interleave tile flip roll gather index index_select scatter scatter_add slice_scatter "
    "select_scatter to _to_copy type_as zeros ones full empty arange zeros_like ones_like full_like empty_like "
    "new_ones new_zeros new_full scalar_tensor tensor eye linspace copy index_put masked_scatter pixel_shuffle "
    "pixel_unshuffle triu tril fill masked_select nonzero sort topk argsort channel_shuffle im2col col2im "
    "quantize_per_tensor dequantize_per_tensor quantize_per_channel dequantize_per_channel meshgrid one_hot "
    "bucketize searchsorted unfold lift_fresh_copy getitem broadcast_to broadcast_tensors"
)
"""Operators that move elements and compute nothing."""
ELEMENTWISE = _split(
    "add sub rsub mul div neg abs pow sqrt rsqrt square exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos "
    "atan atan2 sinh cosh tanh erf erfinv sigmoid log_sigmoid relu relu6 leaky_relu prelu elu selu celu gelu silu "
    "mish hardtanh hardswish hardsigmoid softplus softsign threshold clamp clamp_min clamp_max clip minimum "
    "maximum floor ceil round trunc frac sign reciprocal remainder fmod floor_divide true_divide where eq ne lt "
    "le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor "
    "__and__ __or__ __xor__ __rshift__ __lshift__ isnan isinf isfinite masked_fill addcmul addcdiv lerp nan_to_num "
    "glu swish hypot tanhshrink hardshrink softshrink subtract multiply divide positive absolute cumsum cumprod"
)
REDUCTIONS = _split(
    "mean sum prod amax amin max min argmax argmin var std var_mean std_mean any all logsumexp norm linalg_vector_norm "
    "count_nonzero aminmax"
)
"""Operators that cost one operation an element that they read."""
NORMS = _split(
    "layer_norm native_layer_norm batch_norm native_batch_norm _native_batch_norm_legit_no_training group_norm "
    "native_group_norm instance_norm rms_norm local_response_norm _native_batch_norm_legit "
    "_batch_norm_impl_index cudnn_batch_norm _fused_rms_norm normalize"
)
SOFTMAX = _split("softmax _softmax log_softmax _log_softmax _safe_softmax")
POOLS = _split(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d "
    "avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d "
    "adaptive_max_pool1d adaptive_max_pool2d max_pool1d_with_indices"
)
RESIZES = _split(
    "upsample_nearest1d upsample_nearest2d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d "
    "_upsample_nearest_exact2d upsample_linear1d upsample_trilinear3d grid_sampler grid_sampler_2d"
)
SILENT = _split("_assert_tensor_metadata _assert_scalar _assert_async sym_size sym_stride sym_numel item "
                "sym_constrain_range_for_size sym_constrain_range _local_scalar_dense _guards_fn")  # fmt: skip
"""Checks and sizes: no tensor comes out, and no work is done."""


def base_name(target: str) -> str:
    """The operator's name without library, overload and the underscore of an in-place form."""
    parts = target.split(".")
    name = parts[-2] if target.startswith("torch.ops.") and len(parts) > 4 else parts[-1]
    return name if name.startswith("_") else name.rstrip("_")


def in_place(target: str) -> bool:
    """Whether the operator writes into its first input, as "aten.add_.Tensor" does."""
    parts = target.split(".")
    return (
        target.startswith("torch.ops.")
        and len(parts) > 4
        and parts[-2].endswith("_")
        and parts[-2][:2] != "__"
    )


def op_class(target: str, shapes: Shapes, constants: Mapping[str, Any], weighted: bool) -> str:
    """The kernel class of an operator. `weighted`: whether it reads a stored weight."""
    name = base_name(target)
    if name in CONVOLUTIONS:
        groups = constants.get("groups", 1)
        shape = shapes.get("input", ())
        channels = shape[1] if len(shape) > 1 else 0
        return flops.conv_class(groups if isinstance(groups, int) else 1, channels)
    if name in _RECURRENT:
        return "recurrent"
    if name in _PRODUCTS or name == "einsum":
        return "gemm" if weighted or name in ("linear", "addmm") else "matmul"
    if name.startswith("__"):
        return "elementwise" if name in ELEMENTWISE else "unknown"
    for known, kind in _CLASSES:
        if name in known:
            return kind
    return "unknown"


def operations(
    target: str, shapes: Shapes, outputs: Sequence[Shape], constants: Mapping[str, Any]
) -> int | None:
    """Operations of one node; None when the operator or a shape that it needs is unknown.

    `constants` are its other arguments: integers, lists of integers, flags and texts.
    """
    name = base_name(target)
    out = outputs[0] if outputs else ()
    try:
        if name in CONVOLUTIONS:
            return CONVOLUTIONS[name](shapes, out, constants)
        if name in _PRODUCTS:
            return _PRODUCTS[name](shapes, out, constants)
        if name in _RECURRENT:
            return _RECURRENT[name](shapes, out, constants)
        if name == "einsum":
            return _einsum(shapes, constants)
        if name in POOLS:
            return _pool(name, shapes, out, constants)
        if name in REDUCTIONS:
            return sum(prod(shape) for shape in shapes.values())
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    if name in RESIZES:
        return 4 * prod(out)
    if name in _PLAIN:
        return 0
    for known, kind in _CLASSES:
        if name in known:
            return flops.per_element(kind, out)
    return None


def _conv(shapes: Shapes, out: Shape, constants: Mapping[str, Any]) -> int:
    weight = shapes["weight"]
    if constants.get("transposed") is True:
        return flops.conv_transpose(shapes["input"], weight[1], weight[2:])
    return flops.conv(out, weight[1], weight[2:])


def _conv_transpose(shapes: Shapes, out: Shape, constants: Mapping[str, Any]) -> int:
    weight = shapes["weight"]
    return flops.conv_transpose(shapes["input"], weight[1], weight[2:])


def _linear(shapes: Shapes, out: Shape, constants: Mapping[str, Any]) -> int:
    return 2 * prod(out) * shapes["weight"][-1]


def _matmul(left: str, right: str) -> Callable[[Shapes, Shape, Mapping[str, Any]], int | None]:
    return lambda shapes, out, constants: flops.matmul(shapes[left], shapes[right])


def _attention(shapes: Shapes, out: Shape, constants: Mapping[str, Any]) -> int:
    query, key, value = shapes["query"], shapes["key"], shapes["value"]
    soft = flops.PER_ELEMENT["softmax"] * prod(query[:-1]) * key[-2]
    return flops.attention(prod(query[:-2]), query[-2], key[-2], query[-1], value[-1]) + soft


def _recurrent(gates: int) -> Callable[[Shapes, Shape, Mapping[str, Any]], int]:
    """The weights give it all: each is multiplied once a step, gate matrices are (gates · units, inputs)."""

    def count(shapes: Shapes, out: Shape, constants: Mapping[str, Any]) -> int:
        x = shapes["input"]
        steps = x[1] if constants.get("batch_first") is True else x[0]
        batch = prod(x[:-1]) // max(1, steps)
        matrices = [shape for name, shape in shapes.items() if name.startswith("params") and len(shape) == 2]
        if not matrices or any(shape[0] % gates for shape in matrices):
            raise ValueError("weights of another form")
        return 2 * steps * batch * sum(prod(shape) for shape in matrices)

    return count


CONVOLUTIONS: Mapping[str, Callable[[Shapes, Shape, Mapping[str, Any]], int | None]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
}
_PRODUCTS: Mapping[str, Callable[[Shapes, Shape, Mapping[str, Any]], int | None]] = {
    "linear": _linear,
    "matmul": _matmul("self", "other"),
    "mm": _matmul("self", "mat2"),
    "bmm": _matmul("self", "mat2"),
    "mv": _matmul("self", "vec"),
    "dot": _matmul("self", "tensor"),
    "addmm": _matmul("mat1", "mat2"),
    "baddbmm": _matmul("batch1", "batch2"),
    "scaled_dot_product_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}
_RECURRENT: Mapping[str, Callable[[Shapes, Shape, Mapping[str, Any]], int | None]] = {
    "lstm": _recurrent(4),
    "gru": _recurrent(3),
    "rnn_tanh": _recurrent(1),
    "rnn_relu": _recurrent(1),
}


def _einsum(shapes: Shapes, constants: Mapping[str, Any]) -> int | None:
    """A contraction of two operands: 2 operations for each combination of all indices."""
    terms = str(constants["equation"]).replace(" ", "").split("->")[0].split(",")
    operands = [shape for name, shape in shapes.items() if name.startswith("tensors")]
    if "." in "".join(terms) or len(terms) != 2 or len(operands) != 2:
        return None
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, operands, strict=True):
        sizes.update(zip(term, shape, strict=True))
    return 2 * prod(sizes.values())


def _pool(name: str, shapes: Shapes, out: Shape, constants: Mapping[str, Any]) -> int:
    if "adaptive" in name:
        return prod(shapes["self"])
    kernel = constants["kernel_size"]
    kernel = [kernel] if isinstance(kernel, int) else kernel
    rank = 3 if "3d" in name else 1 if "1d" in name else 2
    return flops.pool(out, kernel * rank if len(kernel) == 1 else kernel)


_PLAIN = VIEWS | COPIES | SILENT | {"embedding", "embedding_bag"}
_CLASSES: tuple[tuple[frozenset[str], str], ...] = (
    (VIEWS | COPIES | SILENT | RESIZES, "movement"),
    (ELEMENTWISE | REDUCTIONS, "elementwise"),
    (NORMS, "norm"),
    (SOFTMAX, "softmax"),
    (POOLS, "pool"),
    (frozenset({"embedding", "embedding_bag"}), "embedding"),
)
