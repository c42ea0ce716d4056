"""Balancing activations against the weights that they meet, channel by channel, before both become int8.

A few channels of a transformer's activations are far larger than the others, and one scale serves them all badly. Their
size is moved into the weights, which have a scale a channel: x W = (x / s)(s W) with s = max|x|^a / max|W|^(1 - a) for
each channel (Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
2023, equation 4). TensorRT fuses the product with 1 / s into what stands before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ....calibration.samples import SampleSet
from ...job import Progress
from ...onnx import graph, ranges
from .placement import Placement

ALPHA = 0.8
"""How much of the size moves. MiniLM's cosine: 0.983 with nothing moved, 0.948 at 0.5, 0.996 at 0.7, 0.9977 at 0.8."""
UNEVEN = 4.0
"""A value is balanced where its largest channel is this many times its median one."""
MOST = 64.0
"""No channel is scaled by more than this, or by less than its reciprocal: float16 must hold what comes of it."""

Array = np.ndarray[Any, Any]


def balance(
    model: onnx.ModelProto, placed: Placement, samples: SampleSet, work: Path, progress: Progress
) -> int:
    """Balance what is uneven among the values of `placed` that products alone read, in place; how many there were."""
    nodes = {node.name: node for node in model.graph.node}
    reads = {
        value: [nodes[name] for name, position in where if position == 0]
        for value, where in placed.activations.items()
        if all(nodes[name].op_type in ("MatMul", "Gemm") for name, _ in where)
    }
    seen = ranges.channel_peaks(model, tuple(reads), samples, work, progress)
    balanced = 0
    for value, peaks in seen.items():
        median = max(float(np.median(peaks)), float(np.finfo(np.float32).tiny))
        if float(peaks.max(initial=0.0)) >= UNEVEN * median:
            _move(model, value, reads[value], peaks)
            balanced += 1
    graph.drop_unread(model)
    return balanced


def _move(model: onnx.ModelProto, value: str, products: list[onnx.NodeProto], peaks: Array) -> None:
    """Divide `value` by its channels' scales where `products` read it, and multiply their weights with them."""
    weights = graph.float_weights(model)
    stored = {node.name: numpy_helper.to_array(weights[node.input[1]]) for node in products}
    axes = {node.name: _input_axis(node) for node in products}
    met = np.max([np.abs(stored[name]).max(axis=1 - axes[name]) for name in stored], axis=0)
    scale = _scales(peaks, met)
    divided, reciprocal = f"{value}_balanced", f"{value}_balance"
    model.graph.initializer.append(numpy_helper.from_array((1 / scale).astype(np.float32), reciprocal))
    for node in products:
        name = f"{node.name}_balanced_weight"
        moved = stored[node.name] * np.expand_dims(scale, 1 - axes[node.name])
        model.graph.initializer.append(numpy_helper.from_array(moved.astype(np.float32), name))
        node.input[0], node.input[1] = divided, name
    at = min(index for index, node in enumerate(model.graph.node) if divided in node.input)
    model.graph.node.insert(at, helper.make_node("Mul", [value, reciprocal], [divided], divided))
    _declare(model, value, divided)


def _scales(peaks: Array, met: Array) -> Array:
    """s of each channel, around 1; 1 for a channel that is always zero on either side."""
    live = (peaks > 0) & (met > 0)
    scale = np.ones_like(peaks, np.float32)
    scale[live] = peaks[live] ** ALPHA / met[live] ** (1 - ALPHA)
    scale /= np.exp(np.mean(np.log(scale)))
    limited: Array = np.clip(scale, 1 / MOST, MOST).astype(np.float32)
    return limited


def _input_axis(node: onnx.NodeProto) -> int:
    """The axis of a product's weight along which it meets the activation's channels."""
    return 1 if node.op_type == "Gemm" and graph.attribute(node, "transB", 0) else 0


def _declare(model: onnx.ModelProto, like: str, name: str) -> None:
    values: Mapping[str, Any] = {
        value.name: value for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    copy = model.graph.value_info.add()
    copy.CopyFrom(values[like])
    copy.name = name
