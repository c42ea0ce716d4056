"""Image models of transformers as forward passes: ViT, DeiT, ResNet and MobileNetV2."""

from __future__ import annotations

from ...targets.errors import SourceUnreadable
from ..files.jsonfile import Fields
from .forward import Tracer, Value

FAMILIES = ("vit", "deit", "resnet", "mobilenet_v2")
"""Model types that are described, by config.json's model_type."""
CLASSIFIERS = ("ForImageClassification", "ForImageClassificationWithTeacher")


def pair(config: Fields, name: str, default: int | None = None) -> tuple[int, int]:
    """A size in pixels that config.json gives as one number or as [height, width]."""
    value = config.values.get(name, default)
    if isinstance(value, list):
        sizes = config.integers(name, high=1 << 16)
        if len(sizes) != 2:
            raise SourceUnreadable("height and width are expected", where=config.where(name))
        return sizes[0], sizes[1]
    size = config.integer(name, default, high=1 << 16) if default else config.integer(name, high=1 << 16)
    return size, size


def trace(
    config: Fields, model_type: str, head: str, labels: int, size: tuple[int, int]
) -> tuple[Tracer, Value]:
    """The forward pass over one image of `size` (height, width), with the head of a class's ending.

    Shapes are without the batch axis: (C, H, W) for images, (tokens, hidden) for ViT's states.
    """
    tracer = Tracer()
    image = tracer.input("pixel_values", (config.integer("num_channels", 3, high=4096), *size))
    run = {"vit": _vit, "deit": _vit, "resnet": _resnet, "mobilenet_v2": _mobilenet}[model_type]
    states, features, classifier = run(tracer, config, model_type, image)
    if head in CLASSIFIERS and classifier:
        return tracer, tracer.linear(classifier, features, labels)
    if head:
        tracer.unknown("head", head, states)
    return tracer, states


def _vit(tracer: Tracer, config: Fields, model_type: str, image: Value) -> tuple[Value, Value, str]:
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if hidden % heads:
        raise SourceUnreadable(f"{hidden} is no multiple of {heads} heads", where=config.where("hidden_size"))
    base, patch = f"{model_type}.", pair(config, "patch_size", 16)
    if patch[0] != patch[1]:
        raise SourceUnreadable("only square patches are known", where=config.where("patch_size"))
    projection = f"{base}embeddings.patch_embeddings.projection"
    patches = tracer.conv(projection, image, hidden, patch[0], stride=patch[0], bias=True)
    special = ("cls_token", "distillation_token") if model_type == "deit" else ("cls_token",)
    for token in special:
        tracer.weight(f"{base}embeddings.{token}", 1, 1, hidden)
    tokens = patches.shape[1] * patches.shape[2] + len(special)
    tracer.weight(f"{base}embeddings.position_embeddings", 1, tokens, hidden)
    joined = tracer.op("concat", "Concat", "movement", [patches], (tokens, hidden), operations=0)
    x = tracer.elementwise("add_positions", "Add", joined)
    bias = config.flag("qkv_bias", True)
    for index in range(config.integer("num_hidden_layers", high=1000)):
        x = _vit_layer(tracer, config, f"{base}encoder.layer.{index}.", x, heads, bias)
    x = tracer.norm(f"{base}layernorm", x)
    return x, tracer.view("first_token", x, (hidden,)), "classifier"


def _vit_layer(tracer: Tracer, config: Fields, prefix: str, x: Value, heads: int, bias: bool) -> Value:
    hidden = x.shape[-1]
    normed = tracer.norm(f"{prefix}layernorm_before", x)
    query, key, value = (
        tracer.linear(f"{prefix}attention.attention.{part}", normed, hidden, bias=bias)
        for part in ("query", "key", "value")
    )
    context = tracer.attention(f"{prefix}attention", query, key, value, heads)
    out = tracer.linear(f"{prefix}attention.output.dense", context, hidden)
    x = tracer.elementwise(f"{prefix}attention.add", "Add", out, x)
    up = tracer.linear(
        f"{prefix}intermediate.dense",
        tracer.norm(f"{prefix}layernorm_after", x),
        config.integer("intermediate_size"),
    )
    down = tracer.linear(
        f"{prefix}output.dense", tracer.elementwise(f"{prefix}act", "Activation", up), hidden
    )
    return tracer.elementwise(f"{prefix}add", "Add", down, x)


def _resnet(tracer: Tracer, config: Fields, _: str, image: Value) -> tuple[Value, Value, str]:
    sizes, depths = config.integers("hidden_sizes"), config.integers("depths", high=1000)
    if len(sizes) != len(depths):
        raise SourceUnreadable("one depth per hidden size is expected", where=config.where("depths"))
    stem = "resnet.embedder.embedder"
    x = _conv_layer(tracer, stem, image, config.integer("embedding_size", 64), 7, stride=2, padding=3)
    x = tracer.pool("resnet.embedder.pooler", x, 3, 2, 1)
    for stage, (channels, depth) in enumerate(zip(sizes, depths, strict=True)):
        for layer in range(depth):
            halves = layer == 0 and (stage > 0 or config.flag("downsample_in_first_stage", False))
            prefix = f"resnet.encoder.stages.{stage}.layers.{layer}."
            x = _residual(tracer, config, prefix, x, channels, 2 if halves else 1)
    return x, tracer.mean("resnet.pooler", x, x.shape[:1]), "classifier.1"


def _residual(tracer: Tracer, config: Fields, prefix: str, x: Value, channels: int, stride: int) -> Value:
    """A basic block of two 3 × 3 convolutions, or a bottleneck of 1 × 1, 3 × 3 and 1 × 1."""
    shortcut = x
    if x.shape[0] != channels or stride != 1:
        shortcut = _conv_layer(tracer, f"{prefix}shortcut", x, channels, 1, stride=stride, act=False)
    if config.text("layer_type", "bottleneck") == "bottleneck":
        early = config.flag("downsample_in_bottleneck", False)
        narrow = max(1, channels // 4)
        plan: tuple[tuple[int, int, int], ...] = (
            (narrow, 1, stride if early else 1),
            (narrow, 3, 1 if early else stride),
            (channels, 1, 1),
        )
    else:
        plan = ((channels, 3, stride), (channels, 3, 1))
    for index, (width, kernel, step) in enumerate(plan):
        name, last = f"{prefix}layer.{index}", index == len(plan) - 1
        x = _conv_layer(tracer, name, x, width, kernel, stride=step, padding=kernel // 2, act=not last)
    return tracer.elementwise(f"{prefix}act", "Relu", tracer.elementwise(f"{prefix}add", "Add", x, shortcut))


def _conv_layer(
    tracer: Tracer, name: str, x: Value, channels: int, kernel: int, *,
    stride: int = 1, padding: int = 0, groups: int = 1, dilation: int = 1, act: bool = True,
) -> Value:  # fmt: skip
    x = tracer.conv(
        f"{name}.convolution", x, channels, kernel,
        stride=stride, padding=padding, groups=groups, dilation=dilation,
    )  # fmt: skip
    x = tracer.batch_norm(f"{name}.normalization", x)
    return tracer.elementwise(f"{name}.activation", "Relu", x) if act else x


_MOBILENET_CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
_MOBILENET_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)


def _mobilenet(tracer: Tracer, config: Fields, _: str, image: Value) -> tuple[Value, Value, str]:
    """MobileNetV2 as transformers builds it (Sandler et al. 2018, table 2), TensorFlow padding included."""
    multiplier = config.number("depth_multiplier", 1.0)
    ratio = config.number("expand_ratio", 6.0)

    def width(channels: float) -> int:
        return _divisible(config, round(channels))

    channels = [width(multiplier * count) for count in _MOBILENET_CHANNELS]
    wide = width(multiplier * 32)
    x = _same_conv(tracer, "mobilenet_v2.conv_stem.first_conv", image, wide, 3, stride=2)
    if not config.flag("first_layer_is_expansion", True):
        x = _same_conv(tracer, "mobilenet_v2.conv_stem.expand_1x1", x, wide, 1)
    x = _same_conv(tracer, "mobilenet_v2.conv_stem.conv_3x3", x, wide, 3, groups=wide)
    x = _same_conv(tracer, "mobilenet_v2.conv_stem.reduce_1x1", x, channels[0], 1, act=False)
    reached, dilation = 2, 1
    for index, stride in enumerate(_MOBILENET_STRIDES):
        step, spread = stride, 1
        if reached == config.integer("output_stride", 32):
            step, spread, dilation = 1, dilation, dilation * stride
        else:
            reached *= stride
        prefix, inner = f"mobilenet_v2.layer.{index}.", width(x.shape[0] * ratio)
        y = _same_conv(tracer, f"{prefix}expand_1x1", x, inner, 1)
        y = _same_conv(tracer, f"{prefix}conv_3x3", y, inner, 3, stride=step, groups=inner, dilation=spread)
        y = _same_conv(tracer, f"{prefix}reduce_1x1", y, channels[index + 1], 1, act=False)
        adds = step == 1 and x.shape[0] == channels[index + 1]
        x = tracer.elementwise(f"{prefix}add", "Add", y, x) if adds else y
    last = 1280 if config.flag("finegrained_output", True) and multiplier < 1 else width(multiplier * 1280)
    x = _same_conv(tracer, "mobilenet_v2.conv_1x1", x, last, 1)
    return x, tracer.mean("mobilenet_v2.pooler", x, x.shape[:1]), "classifier"


def _divisible(config: Fields, value: int) -> int:
    divisor, least = config.integer("depth_divisible_by", 8), config.integer("min_depth", 8)
    rounded = max(least, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _same_conv(
    tracer: Tracer, name: str, x: Value, channels: int, kernel: int, *,
    stride: int = 1, groups: int = 1, dilation: int = 1, act: bool = True,
) -> Value:  # fmt: skip
    """A convolution whose output is the input over the stride, rounded up: TensorFlow's SAME, and k // 2."""
    padding = kernel // 2 * dilation
    return _conv_layer(
        tracer, name, x, channels, kernel,
        stride=stride, padding=padding, groups=groups, dilation=dilation, act=act,
    )  # fmt: skip
