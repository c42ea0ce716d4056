"""The copy for verifying computes each fully connected layer with TensorFlow Lite Micro's two roundings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.exporters.litert import flatbuffer
from modelport.exporters.litert.micro_rounding import as_micro
from tiny_tflite import O, T, model, zeros

INPUTS, OUTPUTS = 24, 40


def dense(seed: int, *, per_channel: bool) -> bytes:
    random = np.random.default_rng(seed)
    weights = random.integers(-127, 128, (OUTPUTS, INPUTS), np.int8)
    biases = random.integers(-3000, 3000, (OUTPUTS,), np.int32)
    scales = OUTPUTS if per_channel else 1
    made = model(
        [
            T((2, INPUTS)),
            T(weights.shape, "INT8", weights, scales),
            T(biases.shape, "INT32", biases, scales),
            T((2, OUTPUTS)),
        ],
        [O("FULLY_CONNECTED", (0, 1, 2), (3,), "FullyConnectedOptions")],
        [0],
        [3],
    )
    tensors = made.subgraphs[0].tensors
    found = random.uniform(0.01, 0.05, scales).astype(np.float32)
    tensors[1].quantization.scale = found.tolist()
    tensors[0].quantization.scale, tensors[0].quantization.zeroPoint = [0.05], [3]
    tensors[2].quantization.scale = (np.float32(0.05) * found).tolist()
    tensors[3].quantization.scale, tensors[3].quantization.zeroPoint = [1.0], [-5]
    return flatbuffer.write(made)


def run(data: bytes, values: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def twice_rounded(total: int, scale: float) -> int:
    """MultiplyByQuantizedMultiplier of kernels/internal/common.cc, without TFLITE_SINGLE_ROUNDING."""
    fraction, exponent = math.frexp(scale)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    product = (total << max(exponent, 0)) * multiplier
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)
    shift = max(-exponent, 0)
    mask = (1 << shift) - 1
    return (high >> shift) + (1 if (high & mask) > (mask >> 1) + (high < 0) else 0)


def expected(data: bytes, values: np.ndarray) -> np.ndarray:
    made: Any = flatbuffer.read(data)
    tensors, buffers = made.subgraphs[0].tensors, made.buffers
    weights = np.frombuffer(bytes(buffers[tensors[1].buffer].data), np.int8).reshape(OUTPUTS, INPUTS)
    biases = np.frombuffer(bytes(buffers[tensors[2].buffer].data), np.int32)
    scales = np.broadcast_to(np.asarray(tensors[1].quantization.scale, np.float32), (OUTPUTS,))
    sums = (values.astype(np.int64) - 3) @ weights.T.astype(np.int64) + biases
    effective = [float(np.float32(0.05)) * float(scale) for scale in scales]
    rounded = [[twice_rounded(int(sums[i, j]), effective[j]) - 5 for j in range(OUTPUTS)] for i in range(2)]
    return np.clip(rounded, -128, 127).astype(np.int8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_copy_rounds_twice(seed: int, per_channel: bool) -> None:
    data = dense(seed, per_channel=per_channel)
    values = np.random.default_rng(seed).integers(-128, 128, (2, INPUTS), np.int8)
    np.testing.assert_array_equal(run(as_micro(data), values), expected(data, values))


def test_litert_itself_rounds_otherwise() -> None:
    different = 0
    for seed in range(20):
        data = dense(seed, per_channel=True)
        values = np.random.default_rng(seed).integers(-128, 128, (2, INPUTS), np.int8)
        different += int(np.count_nonzero(run(data, values) != expected(data, values)))
    assert different > 0, "LiteRT rounds as TensorFlow Lite Micro now: micro_rounding can go"


def test_tensors_keep_their_indices_and_other_files_their_bytes() -> None:
    data = dense(0, per_channel=True)
    before, after = flatbuffer.read(data), flatbuffer.read(as_micro(data))
    assert [t.name for t in after.subgraphs[0].tensors[:4]] == [t.name for t in before.subgraphs[0].tensors]
    assert list(after.subgraphs[0].outputs) == [3]
    other = flatbuffer.write(model([T((1, 4)), T((1, 4))], [O("RELU", (0,), (1,))], [0], [1]))
    assert as_micro(other) is other


@pytest.mark.parametrize("rank", [1, 3])
def test_a_layer_over_other_ranks_keeps_its_shape(rank: int) -> None:
    shape = (1,) * (rank - 1) + (INPUTS,)
    data = flatbuffer.write(
        model(
            [T(shape), zeros(OUTPUTS, INPUTS), T((1, OUTPUTS))],
            [O("FULLY_CONNECTED", (0, 1, -1), (2,), "FullyConnectedOptions")],
            [0],
            [2],
        )
    )
    assert run(as_micro(data), np.ones(shape, np.int8)).shape == (1, OUTPUTS)
