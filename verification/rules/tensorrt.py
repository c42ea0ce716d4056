"""TensorRT's published rules for explicit quantization and strong typing, held against a written graph.

Sources, by the titles of NVIDIA's documents:
[schemes]    TensorRT Documentation, "Working with Quantized Types": "Quantization Schemes"
[explicit]   the same: "Explicit Quantization" (with "Quantized Weights" and "ONNX Support")
[placement]  the same: "Q/DQ Layer-Placement Recommendations"
[typing]     TensorRT Documentation, "Strongly Typed Networks"
[opset]      TensorRT Documentation, "ONNX Opset Guide", and ONNX's own "Operators" for what an operator set defines
[modelopt]   TensorRT Model Optimizer, "ONNX Quantization", whose placement is NVIDIA's own
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx

from . import Finding
from .view import FLOATS, NARROW, PRODUCTS, T, View, label, read

Rule = Callable[[View], Iterator[Finding]]

LEAST_OPSET = 19
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSigmoid", "BatchNormalization")
CONVOLUTIONS = ("Conv", "ConvTranspose")


def operator_set(view: View) -> Iterator[Finding]:
    """Q/DQ of float16 scales and of float8 are defined from operator set 19 on. [opset]"""
    if view.of("QuantizeLinear", "DequantizeLinear") and view.opset < LEAST_OPSET:
        yield Finding("operator set", "", f"is {view.opset}, and Q/DQ needs {LEAST_OPSET} or later")


def zero_points(view: View) -> Iterator[Finding]:
    """Quantization is symmetric: every zero point is 0. [schemes]"""
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) > 2 and node.input[2]:
            zero = view.values(node.input[2])
            if zero is None:
                yield Finding("zero point", label(node), "is computed, and must be stored")
            elif np.any(zero):
                yield Finding("zero point", label(node), "is not 0")


def narrow_types(view: View) -> Iterator[Finding]:
    """The 8-bit types are signed int8 and float8 E4M3. [schemes]"""
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        kind = view.kinds.get(name)
        if len(node.input) > 2 and node.input[2] in view.kinds:
            kind = view.kinds[node.input[2]]
        if kind is None and node.op_type == "QuantizeLinear":
            kind = T.UINT8  # what ONNX takes where no zero point says otherwise
        if kind is not None and kind not in NARROW:
            yield Finding(
                "type", label(node), f"is {T.DataType.Name(kind).lower()}, not int8 or float8e4m3fn"
            )


def scales(view: View) -> Iterator[Finding]:
    """A scale is a constant of the build, finite and above zero. [schemes, explicit]"""
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        scale = view.values(node.input[1])
        if scale is None:
            yield Finding("scale", label(node), "is computed, and must be stored")
        elif not np.all(np.isfinite(scale) & (scale > 0)):
            yield Finding("scale", label(node), "is not a positive number")


def channels(view: View) -> Iterator[Finding]:
    """Activations have one scale; weights have one a channel, along the axis of their output. [schemes, placement]"""
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        scale = view.values(node.input[1])
        if scale is None or scale.size == 1:
            continue
        source = view.maker(node.input[0], "QuantizeLinear")
        weight = view.stored.get(node.input[0] if source is None else source.input[0])
        if weight is None:
            yield Finding("channels", label(node), "an activation has one scale, not one a channel")
            continue
        axis = next((found.i for found in node.attribute if found.name == "axis"), 1) % max(
            len(weight.dims), 1
        )
        for reader, position in view.readers.get(node.output[0], ()):
            right = _output_axis(reader, position)
            if right is not None and axis != right:
                yield Finding("channels", label(node), f"axis {axis}, and {label(reader)} wants {right}")


def _output_axis(node: onnx.NodeProto, position: int) -> int | None:
    """The axis of a weight's output channels by who reads it; None for operators without such."""
    if position != 1:
        return None
    if node.op_type == "Gemm":
        return 0 if any(found.name == "transB" and found.i for found in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}.get(node.op_type)


def stored_weights(view: View) -> Iterator[Finding]:
    """Weights of quantized operators are stored in 8 bits, with a dequantize alone behind them. [explicit]"""
    for node in view.of("QuantizeLinear"):
        if node.input[0] in view.stored:
            yield Finding("weights", label(node), "a stored weight is float, and quantized as it is loaded")


def pairs(view: View) -> Iterator[Finding]:
    """Every quantize is read by dequantizes of its own scale, every dequantize reads one or a weight. [explicit]"""
    for node in view.of("QuantizeLinear"):
        readers = view.readers.get(node.output[0], [])
        if not readers or any(reader.op_type != "DequantizeLinear" for reader, _ in readers):
            yield Finding("pairs", label(node), "is not read by DequantizeLinear alone")
        for reader, _ in readers:
            if reader.op_type == "DequantizeLinear" and reader.input[1] != node.input[1]:
                first, second = view.values(node.input[1]), view.values(reader.input[1])
                if first is None or second is None or not np.array_equal(first, second):
                    yield Finding("pairs", label(reader), f"has another scale than {label(node)}")
    for node in view.of("DequantizeLinear"):
        if node.input[0] not in view.stored and view.maker(node.input[0], "QuantizeLinear") is None:
            yield Finding("pairs", label(node), "reads neither QuantizeLinear nor a stored weight")


def operands(view: View) -> Iterator[Finding]:
    """A product is quantized on both sides or on none: "quantize all inputs of weighted-operations". [placement]"""
    for node in view.nodes:
        if node.op_type in PRODUCTS and len(node.input) > 1:
            done = [view.maker(name, "DequantizeLinear") is not None for name in node.input[:2]]
            if any(done) and not all(done):
                side = "activation" if done[1] else "weight"
                yield Finding("operands", label(node), f"its {side} is not quantized, and the other side is")


def casts(view: View) -> Iterator[Finding]:
    """No cast stands beside a dequantize: its scale has the dtype that the reader computes in. [typing]"""
    for node in view.of("Cast"):
        if view.maker(node.input[0], "DequantizeLinear") is not None:
            yield Finding("casts", label(node), "stands between a dequantize and its reader")


def biases(view: View) -> Iterator[Finding]:
    """Biases are not quantized. [explicit, modelopt]"""
    for node in view.nodes:
        third = node.input[2] if len(node.input) > 2 else ""
        if node.op_type in PRODUCTS and third and view.maker(third, "DequantizeLinear", "QuantizeLinear"):
            yield Finding("bias", label(node), "its bias is quantized")
        if node.op_type == "Add":
            for name in node.input:
                source = view.maker(name, "DequantizeLinear")
                if source is not None and source.input[0] in view.stored:
                    yield Finding("bias", label(node), "a stored term is quantized")


def fused_activations(view: View) -> Iterator[Finding]:
    """No Q/DQ between a product and its activation or batch normalisation, which are one kernel. [placement]"""
    for node in view.of(*ACTIVATIONS):
        for name in node.input[:1]:
            dequantize = view.maker(name, "DequantizeLinear")
            quantize = view.maker(dequantize.input[0], "QuantizeLinear") if dequantize is not None else None
            made = view.maker(quantize.input[0], *PRODUCTS) if quantize is not None else None
            if made is not None and len(view.readers[made.output[0]]) == 1:
                yield Finding("activation", label(node), f"is kept apart from {label(made)} by Q/DQ")


def residuals(view: View) -> Iterator[Finding]:
    """An addition behind a quantized convolution: the residual is quantized, the convolution's result is not.

    TensorRT fuses the two, and the precision of the residual decides in which one they give their result; a Q on the
    convolution's own result would keep them apart. [placement: "Quantize the residual input in skip-connections";
    modelopt: `build_non_residual_input_map`]
    """
    for node in view.of("Add"):
        if len(node.input) < 2 or any(name in view.stored for name in node.input):
            continue
        direct = [_quantized_convolution(view, name) for name in node.input]
        behind = [_behind_pair(view, name) for name in node.input]
        for position in (0, 1):
            other = 1 - position
            if direct[position] and not view.maker(node.input[other], "DequantizeLinear"):
                yield Finding("residual", label(node), "its residual input is not quantized")
                break
            if behind[position] and not direct[other] and view.maker(node.input[other], "DequantizeLinear"):
                yield Finding("residual", label(node), "is kept apart from its convolution by Q/DQ")
                break


def _quantized_convolution(view: View, name: str) -> bool:
    """Whether a quantized convolution makes this value, and this addition alone reads it."""
    made = view.maker(name, *CONVOLUTIONS)
    return (
        made is not None
        and view.is_quantized(made)
        and len(view.readers[name]) == 1
        and not view.is_output(name)
    )


def _behind_pair(view: View, name: str) -> bool:
    """Whether a quantized convolution, read by nothing else, stands before the Q/DQ that gives this value."""
    dequantize = view.maker(name, "DequantizeLinear")
    quantize = view.maker(dequantize.input[0], "QuantizeLinear") if dequantize is not None else None
    return (
        quantize is not None
        and len(view.readers[quantize.output[0]]) == 1
        and len(view.readers[name]) == 1
        and _quantized_convolution(view, quantize.input[0])
    )


def outputs(view: View) -> Iterator[Finding]:
    """Nothing is quantized behind the last operator: it only costs precision. [placement]"""
    for value in view.model.graph.output:
        made = view.maker(value.name, "DequantizeLinear", "QuantizeLinear")
        if made is not None:
            yield Finding("outputs", label(made), f"output {value.name!r} is quantized")


def one_type(view: View) -> Iterator[Finding]:
    """All inputs of one kind have one dtype, since nothing is converted between operators. [typing]"""
    for node in view.nodes:
        try:
            schema = onnx.defs.get_schema(node.op_type, view.opset, node.domain)
        except onnx.defs.SchemaError:
            continue
        variables = {found.type_param_str for found in schema.type_constraints}
        seen: dict[str, int] = {}
        for position, name in enumerate(node.input):
            formal = schema.inputs[min(position, len(schema.inputs) - 1)].type_str
            kind = view.kinds.get(name)
            if (
                kind is not None
                and kind in FLOATS
                and formal in variables
                and seen.setdefault(formal, kind) != kind
            ):
                names = (T.DataType.Name(each).lower() for each in (seen[formal], kind))
                yield Finding("one type", label(node), f"reads {' and '.join(names)}")
                break


def narrow_readers(view: View) -> Iterator[Finding]:
    """8-bit values are read by DequantizeLinear alone: there is no other operator on them. [explicit]"""
    for node in view.nodes:
        if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            continue
        for name in node.input:
            if view.kinds.get(name) in NARROW:
                yield Finding("narrow values", label(node), f"reads {name!r}, which is 8-bit")


RULES: tuple[Rule, ...] = (
    operator_set, zero_points, narrow_types, scales, channels, stored_weights, pairs, operands, casts, biases,
    fused_activations, residuals, outputs, one_type, narrow_readers,
)  # fmt: skip
"""Every rule; a graph without Q/DQ keeps most of them by having none."""


def check(path: Path) -> tuple[Finding, ...]:
    """Where the graph at `path` breaks a rule; empty where it keeps them all."""
    view = read(path)
    return tuple(finding for rule in RULES for finding in rule(view))
