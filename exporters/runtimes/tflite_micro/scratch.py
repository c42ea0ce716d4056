"""What optimised kernels take beyond the reference ones: a buffer that unpacks one window of inputs."""

from __future__ import annotations

import math

from ...litert.flatbuffer import Graph, Op

COLUMNS = 4
"""Windows that CMSIS-NN unpacks at a time at the most (4 with Helium, 2 with the DSP extension)."""
HELIUM_BLOCK = 124
"""Channels that its depthwise kernel takes at a time with Helium (CH_IN_BLOCK_MVE), four windows of int8 each."""


def most(graph: Graph) -> int:
    """An upper bound in bytes over all operators, aligned to 16: one buffer is alive at a time.

    After CMSIS-NN's `*_get_buffer_size` functions: convolutions ask for columns x window x 2 bytes (int16),
    transposed ones for rows of int32 sums as high as the filter, fully connected layers and pooling for an int32 a
    channel. ESP-NN's convolutions ask for no more than a few windows.
    """
    return -(-max((_bytes(graph, op) for op in graph.ops), default=0) // 16) * 16


def _bytes(graph: Graph, op: Op) -> int:
    if op.kind == "CONV_2D":
        return COLUMNS * 2 * math.prod(graph.shape(op.inputs[1])[1:])
    if op.kind == "DEPTHWISE_CONV_2D":
        window = math.prod(graph.shape(op.inputs[1])[1:3])
        channels = graph.shape(op.inputs[1])[3]
        return max(COLUMNS * 2 * channels, COLUMNS * HELIUM_BLOCK) * window
    if op.kind == "TRANSPOSE_CONV":
        made, height, width, _ = graph.shape(op.inputs[1])
        across = graph.shape(op.outputs[0])[2] + width
        return 4 * made * across * height + COLUMNS * 2 * math.prod(graph.shape(op.inputs[1])[1:])
    if op.kind == "FULLY_CONNECTED":
        return 4 * graph.shape(op.inputs[1])[0]
    if op.kind == "AVERAGE_POOL_2D":
        return 4 * graph.shape(op.inputs[0])[-1]
    return 0
