"""What optimised kernels take beyond the reference ones: a buffer that unpacks one window of inputs."""

from __future__ import annotations

import math

from ...litert.flatbuffer import Graph, Op

COLUMNS = 4
"""Windows that CMSIS-NN unpacks at a time at the most (4 with Helium, 2 with the DSP extension)."""


def most(graph: Graph) -> int:
    """An upper bound in bytes over all operators, aligned to 16: one buffer is alive at a time.

    CMSIS-NN's arm_convolve_s8_get_buffer_size asks for columns x window x 2 bytes (int16), its depthwise and
    fully connected kernels for less, ESP-NN's convolutions for a copy of the padded input rows on top.
    """
    return -(-max((_bytes(graph, op) for op in graph.ops), default=0) // 16) * 16


def _bytes(graph: Graph, op: Op) -> int:
    if op.kind in ("CONV_2D", "TRANSPOSE_CONV"):
        return COLUMNS * 2 * math.prod(graph.shape(op.inputs[1])[1:])
    if op.kind == "DEPTHWISE_CONV_2D":
        return COLUMNS * 2 * math.prod(graph.shape(op.inputs[1]))
    if op.kind == "FULLY_CONNECTED":
        return 4 * graph.shape(op.inputs[1])[0]
    if op.kind == "AVERAGE_POOL_2D":
        return 4 * graph.shape(op.inputs[0])[-1]
    return 0
