"""Tiny full-integer .tflite files, one for each kind of memory that kernels take."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiny_tflite import O, T, ints, model, zeros


def conv_mean() -> Any:
    """CONV_2D, MEAN and FULLY_CONNECTED: parameters for each channel, scratch for the mean."""
    return model(
        [T((1, 6, 6, 3)), zeros(5, 3, 3, 3, scales=5), zeros(5, kind="INT32", scales=5), T((1, 4, 4, 5)), ints(1, 2),
         T((1, 5)), zeros(7, 5), T((1, 7))],
        [
            O("CONV_2D", (0, 1, 2), (3,), "Conv2DOptions", {"padding": 1, "strideH": 1, "strideW": 1}),
            O("MEAN", (3, 4), (5,), "ReducerOptions"),
            O("FULLY_CONNECTED", (5, 6, -1), (7,), "FullyConnectedOptions"),
        ],
        [0],
        [7],
    )  # fmt: skip


def transpose_conv() -> Any:
    """TRANSPOSE_CONV: an int32 scratch buffer four times its output."""
    options = {"padding": 1, "strideH": 2, "strideW": 2}
    return model(
        [ints(1, 8, 8, 2), zeros(2, 2, 2, 3, scales=2), T((1, 4, 4, 3)), T((1, 8, 8, 2))],
        [O("TRANSPOSE_CONV", (0, 1, 2), (3,), "TransposeConvOptions", options)],
        [2],
        [3],
    )


def matmul() -> Any:
    """BATCH_MATMUL: a transposed copy of the right side in the tail."""
    return model(
        [T((1, 4, 6)), T((1, 6, 10)), T((1, 4, 10))],
        [O("BATCH_MATMUL", (0, 1), (2,), "BatchMatMulOptions")],
        [0, 1],
        [2],
    )


def crossing() -> Any:
    """TRANSPOSE, PAD, CONCATENATION and ADD with lifetimes that cross, and a tensor that nothing uses."""
    paddings = T((4, 2), "INT32", np.array([[0, 0], [1, 1], [0, 0], [0, 0]], np.int32), 0)
    return model(
        [T((1, 4, 6, 2)), ints(0, 2, 1, 3), T((1, 6, 4, 2)), paddings, T((1, 6, 6, 2)), T((1, 6, 6, 2)),
         T((1, 6, 6, 4)), T((1, 6, 6, 2)), T((100,))],
        [
            O("PAD", (0, 3), (4,)),
            O("TRANSPOSE", (4, 1), (5,)),
            O("ADD", (4, 5), (7,), "AddOptions"),
            O("CONCATENATION", (7, 4), (6,), "ConcatenationOptions", {"axis": 3}),
            O("TRANSPOSE", (0, 1), (2,)),
        ],
        [0],
        [6, 2],
    )  # fmt: skip


def variable() -> Any:
    """A tensor that keeps its value between runs: it lies in the tail."""
    return model(
        [T((1, 4)), T((1, 4), variable=True), T((1, 4))],
        [O("ADD", (0, 1), (2,), "AddOptions")],
        [0],
        [2],
    )


TINY = {"conv_mean": conv_mean, "transpose_conv": transpose_conv, "matmul": matmul, "crossing": crossing,
        "variable": variable}  # fmt: skip
"""By name, a function that makes the ModelT."""
