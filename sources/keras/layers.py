"""What a Keras layer is made of: weights, output shape and operations from its config and input shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from .. import flops
from .movement import MOVEMENT, UNKNOWN, Config, Cost, Layer, Part, Shape, sizes_of, spatial


def cost(name: str, config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    """The cost of one layer of class `name`; `out` is the output's shape where the model's config tells it.

    A layer whose config lacks what it needs is unknown, as are classes that are not listed here.
    """
    layer = LAYERS.get(name)
    if layer is None or not inputs or not all(_is_count(config.get(key)) for key in _COUNTS):
        return UNKNOWN
    try:
        found = layer(config, inputs, out)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return UNKNOWN
    return replace(found, weights=None) if _is_rebuilt(config) else found


_COUNTS = ("filters", "units", "groups", "input_dim", "output_dim", "num_heads", "key_dim", "value_dim",
           "depth_multiplier", "n")  # fmt: skip


def _is_count(value: object) -> bool:
    """Absent, or a size that arithmetic may use: a text times a size would be a text of that length."""
    return value is None or (type(value) is int and 0 < value < 1 << 40)


def _is_rebuilt(config: Config) -> bool:
    """Whether the layer was quantized or given LoRA weights: it then stores other weights than its class says."""
    policy = config.get("dtype")
    quantized = isinstance(policy, Mapping) and str(policy.get("class_name")).startswith("Quantized")
    return quantized or bool(config.get("lora_rank")) or bool(config.get("quantization_config"))


def _window_out(config: Config, shape: Shape, kernel: Shape, strides: Shape, channels: int) -> Shape:
    """Output shape of a convolution or pooling with padding "same", "valid" or "causal"."""
    axis, last = spatial(config, len(shape))
    space = [size for at, size in enumerate(shape) if at not in (0, axis)]
    dilation = sizes_of(config.get("dilation_rate", 1), len(kernel))
    if config.get("padding", "valid") == "valid":
        reach = [(size - 1) * rate + 1 for size, rate in zip(kernel, dilation, strict=True)]
        sizes = [(size - far) // step + 1 for size, far, step in zip(space, reach, strides, strict=True)]
    else:
        sizes = [-(-size // step) for size, step in zip(space, strides, strict=True)]
    return (shape[0], *sizes, channels) if last else (shape[0], channels, *sizes)


def _conv(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape = inputs[0]
    count = len(shape) - 2
    kernel, strides = sizes_of(config["kernel_size"], count), sizes_of(config.get("strides", 1), count)
    axis, _ = spatial(config, len(shape))
    filters, groups = config["filters"], config.get("groups", 1)
    inner = shape[axis] // groups
    out = out or _window_out(config, shape, kernel, strides, filters)
    weights = prod(kernel) * inner * filters + (filters if config.get("use_bias", True) else 0)
    kind = flops.conv_class(groups, shape[axis])
    return Cost((Part("", kind, flops.conv(out, inner, kernel)),), weights, out)


def _conv_transpose(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape = inputs[0]
    count = len(shape) - 2
    kernel, strides = sizes_of(config["kernel_size"], count), sizes_of(config.get("strides", 1), count)
    axis, last = spatial(config, len(shape))
    filters = config["filters"]
    weights = prod(kernel) * shape[axis] * filters + (filters if config.get("use_bias", True) else 0)
    plain = config.get("output_padding") is None and set(sizes_of(config.get("dilation_rate", 1), count)) == {
        1
    }
    if out is None and plain:
        space = [size for at, size in enumerate(shape) if at not in (0, axis)]
        beyond = config.get("padding", "valid") == "valid"
        sizes = [
            size * step + (max(far - step, 0) if beyond else 0)
            for size, far, step in zip(space, kernel, strides, strict=True)
        ]
        out = (shape[0], *sizes, filters) if last else (shape[0], filters, *sizes)
    return Cost((Part("", "conv", flops.conv_transpose(shape, filters, kernel)),), weights, out)


def _depthwise(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape = inputs[0]
    count = len(shape) - 2
    kernel, strides = sizes_of(config["kernel_size"], count), sizes_of(config.get("strides", 1), count)
    axis, _ = spatial(config, len(shape))
    channels = shape[axis] * config.get("depth_multiplier", 1)
    out = out or _window_out(config, shape, kernel, strides, channels)
    weights = prod(kernel) * channels + (channels if config.get("use_bias", True) else 0)
    return Cost((Part("", "depthwise", flops.conv(out, 1, kernel)),), weights, out)


def _separable(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    depthwise = _depthwise({**config, "use_bias": False}, inputs, None)
    filters = config["filters"]
    assert depthwise.out is not None
    assert depthwise.weights is not None
    axis, _ = spatial(config, len(depthwise.out))
    channels = depthwise.out[axis]
    out = tuple(filters if at == axis else size for at, size in enumerate(depthwise.out))
    weights = depthwise.weights + channels * filters + (filters if config.get("use_bias", True) else 0)
    first = depthwise.parts[0].flops
    parts = (
        Part("/depthwise", "depthwise", first),
        Part("/pointwise", "conv", flops.conv(out, channels, (1, 1))),
    )
    return Cost(parts, weights, out)


def _dense(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape, units = inputs[0], config["units"]
    weights = shape[-1] * units + (units if config.get("use_bias", True) else 0)
    operations = flops.gemm(prod(shape[:-1]), shape[-1], units)
    return Cost((Part("", "gemm", operations),), weights, (*shape[:-1], units))


def _embedding(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    width = config["output_dim"]
    return Cost((Part("", "embedding", 0),), config["input_dim"] * width, (*inputs[0], width))


def _norm(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape, axes = inputs[0], config.get("axis", -1)
    width = prod(shape[axis] for axis in (axes if isinstance(axes, list) else [axes]))
    if config.get("rms_scaling"):
        return _normalised(shape, width)
    return _normalised(shape, width * (bool(config.get("center", True)) + bool(config.get("scale", True))))


def _batch_norm(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    if config.get("renorm"):
        return UNKNOWN
    width = inputs[0][config.get("axis", -1)]
    return _normalised(
        inputs[0], width * (2 + bool(config.get("center", True)) + bool(config.get("scale", True)))
    )


def _rms_norm(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    axes = config.get("axis", -1)
    return _normalised(
        inputs[0], prod(inputs[0][axis] for axis in (axes if isinstance(axes, list) else [axes]))
    )


def _normalised(shape: Shape, weights: int) -> Cost:
    return Cost((Part("", "norm", flops.per_element("norm", shape)),), weights, shape)


def _elementwise(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape: Shape | None = inputs[0]
    for other in inputs[1:]:
        shape = None if shape is None else flops.broadcast(shape, other)
    result = out or shape
    kind = "softmax" if config.get("activation") == "softmax" else "elementwise"
    operations = None if result is None else flops.per_element(kind, result)
    return Cost((Part("", kind, operations and operations * max(1, len(inputs) - 1)),), 0, result)


def _prelu(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape, shared = inputs[0], config.get("shared_axes") or []
    weights = prod(size for axis, size in enumerate(shape) if axis and axis not in shared)
    return Cost((Part("", "elementwise", prod(shape)),), weights, shape)


def _softmax(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    return Cost((Part("", "softmax", flops.per_element("softmax", inputs[0])),), 0, inputs[0])


def _pool(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape = inputs[0]
    count = len(shape) - 2
    kernel = sizes_of(config["pool_size"], count)
    strides = sizes_of(config.get("strides") or kernel, count)
    axis, _ = spatial(config, len(shape))
    out = out or _window_out({**config, "dilation_rate": 1}, shape, kernel, strides, shape[axis])
    return Cost((Part("", "pool", flops.pool(out, kernel)),), 0, out)


def _global_pool(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape = inputs[0]
    axis, last = spatial(config, len(shape))
    ones = (1,) * (len(shape) - 2) if config.get("keepdims") else ()
    out = (shape[0], *ones, shape[axis]) if last else (shape[0], shape[axis], *ones)
    return Cost((Part("", "pool", prod(shape)),), 0, out)


def _recurrent(gates: int) -> Layer:
    def layer(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
        batch, steps, width = inputs[0]
        units = config["units"]
        # A GRU with reset_after keeps two rows of biases (Keras's default, as cuDNN has it).
        rows = 2 if gates == 3 and config.get("reset_after", True) else 1
        biases = rows if config.get("use_bias", True) else 0
        weights = gates * units * (width + units + biases)
        result = (batch, steps, units) if config.get("return_sequences") else (batch, units)
        return Cost(
            (Part("", "recurrent", batch * flops.recurrent(steps, width, units, gates)),), weights, result
        )

    return layer


def _bidirectional(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    inner = config["layer"]
    one = cost(inner["class_name"], inner["config"], inputs, None)
    if one.weights is None or one.out is None or config.get("merge_mode", "concat") != "concat":
        return UNKNOWN
    parts = tuple(Part(part.suffix, part.op_class, part.flops and 2 * part.flops) for part in one.parts)
    return Cost(parts, 2 * one.weights, (*one.out[:-1], 2 * one.out[-1]))


def _attention(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    """MultiHeadAttention(query, value, key=value) over axis 1, with its four projections."""
    query, value = inputs[0], inputs[1] if len(inputs) > 1 else inputs[0]
    key = inputs[2] if len(inputs) > 2 else value
    heads, inner = config["num_heads"], config["key_dim"]
    outer = config.get("value_dim") or inner
    if len(query) != 3 or config.get("output_shape") is not None or config.get("use_gate"):
        return UNKNOWN
    batch, steps, width = query
    bias = bool(config.get("use_bias", True))
    widths = (
        (steps, width, heads * inner),
        (key[1], key[2], heads * inner),
        (value[1], value[2], heads * outer),
    )
    projections = (*widths, (steps, heads * outer, width))
    weights = sum(rows * columns + (columns if bias else 0) for _, rows, columns in projections)
    return Cost(
        (
            Part("/projections", "gemm", batch * sum(flops.gemm(*sizes) for sizes in projections)),
            Part("/attention", "matmul", flops.attention(batch * heads, steps, key[1], inner, outer)),
            Part("/softmax", "softmax", flops.per_element("softmax", (batch, heads, steps, key[1]))),
        ),
        weights,
        query,
    )


LAYERS: Mapping[str, Layer] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _conv),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _conv_transpose),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    "Dense": _dense,
    "Embedding": _embedding,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _norm,
    "RMSNormalization": _rms_norm,
    **dict.fromkeys(("ReLU", "LeakyReLU", "ELU", "Activation", "Rescaling"), _elementwise),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _elementwise),
    "PReLU": _prelu,
    "Softmax": _softmax,
    **dict.fromkeys([f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)], _pool),
    **dict.fromkeys(
        [f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)], _global_pool
    ),
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "SimpleRNN": _recurrent(1),
    "Bidirectional": _bidirectional,
    "MultiHeadAttention": _attention,
    **MOVEMENT,
}
"""Layer classes whose cost is known; a class that is not here is unknown."""
