"""Explicit int8 and fp8: weights stored narrow, and quantize and dequantize pairs around activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ....targets.errors import Unsupported
from ...job import Job, Progress
from ...onnx import graph, ranges
from . import placement

Array = np.ndarray[Any, Any]

MEND = "Give a .npz, a folder of images or a text file, or take --quant fp16"
"""What to do without samples."""
LEAST_SCALE = 2.0**-14
"""Smallest scale: the smallest normal float16, since scales are float16 where the graph is."""


@dataclass(frozen=True)
class Form:
    """One 8-bit form: its ONNX type, the value that the largest magnitude becomes, and the words for it."""

    dtype: int
    top: float
    title: str


FORMS: Mapping[str, Form] = {
    "int8": Form(onnx.TensorProto.INT8, 127.0, "int8"),
    "fp8": Form(onnx.TensorProto.FLOAT8E4M3FN, 448.0, "8-bit floats (E4M3)"),
}
"""Symmetric forms by scheme: TensorRT documentation, "Quantization Schemes"."""


def quantize(job: Job, model: onnx.ModelProto, observed: ranges.Ranges, placed: placement.Placement) -> None:
    """Put what `placed` names into the 8-bit form of the scheme, in place; `observed` are symmetric ranges.

    Scales are float32 here and have float16's precision, so that a half graph holds the very same ones.
    """
    form = FORMS[job.quant]
    reads: dict[placement.Read, str] = {}
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = [_zeros("modelport_zero", form, ())]
    for value, where in placed.activations.items():
        scale = _scale(np.float32(max(map(abs, observed[value]))), form)
        stored.append(numpy_helper.from_array(scale, f"{value}_scale"))
        pair = [f"{value}_scale", "modelport_zero"]
        narrow, wide = f"{value}_quantized", f"{value}_dequantized"
        nodes.append(helper.make_node("QuantizeLinear", [value, *pair], [narrow], narrow))
        nodes.append(helper.make_node("DequantizeLinear", [narrow, *pair], [wide], wide))
        _declare(model, narrow, form.dtype, value)
        _declare(model, wide, onnx.TensorProto.FLOAT, value)
        reads.update(dict.fromkeys(where, wide))
    weights = graph.float_weights(model)
    for (name, axis), where in placed.weights.items():
        key = f"{name}_axis{axis}" if (name, 1 - axis) in placed.weights else name
        narrowed, scale = _narrow(numpy_helper.to_array(weights[name]), axis, form, f"{key}_{job.quant}")
        zero = _zeros(f"{key}_zero", form, scale.shape)
        stored += [narrowed, numpy_helper.from_array(scale, f"{key}_scale"), zero]
        inputs, wide = [narrowed.name, f"{key}_scale", zero.name], f"{key}_dequantized"
        nodes.append(helper.make_node("DequantizeLinear", inputs, [wide], wide, axis=axis))
        shape = list(weights[name].dims)
        model.graph.value_info.append(helper.make_tensor_value_info(wide, onnx.TensorProto.FLOAT, shape))
        reads.update(dict.fromkeys(where, wide))
    for node in model.graph.node:
        for position in range(len(node.input)):
            if (node.name, position) in reads:
                node.input[position] = reads[node.name, position]
    model.graph.initializer.extend(stored)
    graph.replace_nodes(model, [*nodes, *model.graph.node])
    graph.drop_unread(model)


def observed_ranges(
    job: Job, model: onnx.ModelProto, placed: placement.Placement, progress: Progress
) -> tuple[ranges.Ranges, str]:
    """Symmetric ranges of the activations on the user's samples, and one sentence about them."""
    samples = ranges.calibration_samples(job, MEND)
    observer = str(job.options.get("observer") or "minmax")
    found = ranges.observe(
        model, tuple(placed.activations), samples, observer, Path(job.work), progress, symmetric=True
    )
    return found, f"Activation ranges by {observer} over {samples.count} samples, symmetric."


def require_products(job: Job, model: onnx.ModelProto, placed: placement.Placement) -> None:
    """Raise Unsupported where nothing is multiplied with a stored weight."""
    if not placed.weights:
        raise Unsupported(
            f"the model has no product with a weight, which is what {job.quant} is computed in",
            where=job.source_path,
            mend="fp32, fp16 and bf16 take every model",
        )


def _declare(model: onnx.ModelProto, name: str, dtype: int, like: str) -> None:
    """Give the new value `name` a dtype and the shape of `like`."""
    for value in (*model.graph.value_info, *model.graph.input):
        if value.name == like:
            copy = model.graph.value_info.add()
            copy.CopyFrom(value)
            copy.name, copy.type.tensor_type.elem_type = name, dtype
            return


def _scale(bound: Array | np.float32, form: Form) -> Array:
    """Scales for magnitudes up to `bound`, rounded up to float16's precision so that nothing is cut off."""
    exact = np.maximum(np.asarray(bound, np.float32) / form.top, LEAST_SCALE)
    exact = np.minimum(exact, np.float32(np.finfo(np.float16).max))
    half = exact.astype(np.float16)
    short = half.astype(np.float32) < exact
    scale: Array = np.where(short, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)
    return scale


def _narrow(weight: Array, axis: int, form: Form, name: str) -> tuple[onnx.TensorProto, Array]:
    """A weight with one scale for each slice along `axis`, and the scales."""
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scale = _scale(np.abs(weight).max(axis=others), form)
    divided = weight / np.expand_dims(scale, others)
    if form.dtype == onnx.TensorProto.INT8:
        return numpy_helper.from_array(np.clip(np.rint(divided), -127, 127).astype(np.int8), name), scale
    return numpy_helper.from_array(_float8(divided), name), scale


def _float8(values: Array) -> Array:
    """Nearest E4M3 values, ties to even; what lies beyond 448 becomes 448."""
    import ml_dtypes

    narrow: Array = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return narrow


def _zeros(name: str, form: Form, shape: tuple[int, ...]) -> onnx.TensorProto:
    """Zero points: all 0, of the form's type, which tells QuantizeLinear what to make."""
    return helper.make_tensor(name, form.dtype, shape, bytes(int(np.prod(shape))), raw=True)
