"""What becomes int8 and what stays float, judged on small hand-built graphs; the file's form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.calibration.ranges import Range
from modelport.exporters.litert import flatbuffer, recipes
from modelport.targets.errors import Unsupported

FLOAT, INT = schema.TensorType.FLOAT32, schema.TensorType.INT32


class Builder:
    """A ModelT with one subgraph, operator by operator."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.graph = graph
        self.model.subgraphs = [graph]

    def tensor(self, *shape: int, data: np.ndarray[Any, Any] | None = None, dtype: int = FLOAT) -> int:
        made = schema.TensorT()
        made.shape, made.type, made.buffer = list(shape), dtype, 0
        made.name = f"t{len(self.graph.tensors)}".encode()
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            made.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def weight(self, *shape: int) -> int:
        return self.tensor(*shape, data=np.ones(shape, np.float32))

    def input(self, *shape: int, dtype: int = FLOAT) -> int:
        index = self.tensor(*shape, dtype=dtype)
        self.graph.inputs.append(index)
        return index

    def op(self, kind: str, *inputs: int, shape: tuple[int, ...] = (1, 4)) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), [self.tensor(*shape)]
        self.graph.operators.append(made)
        return int(made.outputs[0])

    def finish(self, *outputs: int) -> flatbuffer.Graph:
        self.graph.outputs = list(outputs)
        return flatbuffer.Graph(self.model)


def kinds(ops: tuple[flatbuffer.Op, ...]) -> list[str]:
    return [op.kind for op in ops]


def dense(build: Builder, x: int, size: int = 4) -> int:
    return build.op("FULLY_CONNECTED", x, build.weight(size, 4), -1)


def test_a_convolutional_network_is_int8_throughout() -> None:
    build = Builder()
    image = build.input(1, 8, 8, 3)
    a = build.op("CONV_2D", image, build.weight(4, 3, 3, 3), build.weight(4), shape=(1, 8, 8, 4))
    b = build.op("CONV_2D", a, build.weight(4, 3, 3, 4), build.weight(4), shape=(1, 8, 8, 4))
    total = build.op("ADD", a, b, shape=(1, 8, 8, 4))
    pooled = build.op("MEAN", total, shape=(1, 4))
    plan = recipes.static_plan(build.finish(build.op("SOFTMAX", dense(build, pooled))))
    assert kinds(plan.static) == ["CONV_2D", "CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    assert plan.left == ()


def test_a_norm_stays_float_with_everything_that_leads_into_it() -> None:
    build = Builder()
    x = dense(build, build.input(1, 4))
    mean = build.op("MEAN", x)
    spread = build.op("SQUARED_DIFFERENCE", x, mean)
    scale = build.op("RSQRT", build.op("MEAN", spread))
    y = dense(build, build.op("MUL", x, scale))
    plan = recipes.static_plan(build.finish(y))
    assert kinds(plan.static) == ["FULLY_CONNECTED", "FULLY_CONNECTED"]
    assert kinds(plan.left) == ["MEAN", "SQUARED_DIFFERENCE", "MEAN", "RSQRT", "MUL"]


def test_softmax_inside_attention_stays_float_and_reshapes_between_matmuls_follow_them() -> None:
    build = Builder()
    x = build.input(1, 4)
    query, key = build.op("RESHAPE", dense(build, x)), build.op("TRANSPOSE", dense(build, x))
    chances = build.op("SOFTMAX", build.op("BATCH_MATMUL", query, key))
    plan = recipes.static_plan(build.finish(dense(build, build.op("BATCH_MATMUL", chances, query))))
    assert "SOFTMAX" in kinds(plan.left)
    assert "RESHAPE" in kinds(plan.static)
    assert "TRANSPOSE" in kinds(plan.static)
    assert kinds(plan.static).count("BATCH_MATMUL") == 2


def test_a_layer_with_massive_activations_gets_ranges_while_it_runs() -> None:
    build = Builder()
    x = build.input(1, 4)
    hidden = dense(build, x)
    out = dense(build, hidden)
    graph = build.finish(out)
    usual, massive = Range(-3, 3, 6, 1.0), Range(-3, 200, 203, 0.3)
    assert recipes.static_plan(graph, {x: usual, hidden: usual, out: usual}).dynamic == ()
    plan = recipes.static_plan(graph, {x: usual, hidden: usual, out: massive})
    assert [op.outputs for op in plan.static] == [(hidden,)]
    assert [op.outputs for op in plan.dynamic] == [(out,)]
    assert plan.coarse == plan.dynamic


def test_an_integer_operator_is_neither_quantized_nor_called_left_in_float() -> None:
    build = Builder()
    ids = build.input(1, 4, dtype=INT)
    flat = build.op("RESHAPE", ids)
    build.graph.tensors[flat].type = INT
    rows = build.op("EMBEDDING_LOOKUP", flat, build.weight(10, 4))
    plan = recipes.static_plan(build.finish(dense(build, rows)))
    assert kinds(plan.dynamic) == ["EMBEDDING_LOOKUP"]
    assert plan.left == ()


@given(
    spread=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_predicted_noise_is_that_of_rounding(spread: float, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-spread, spread, 4000)
    found = Range(values.min(), values.max(), values.max() - values.min(), float(np.mean(values**2)))
    step = found.span / 255
    noise = np.mean((np.rint(values / step) * step - values) ** 2)
    assert found.sqnr_db == pytest.approx(10 * np.log10(found.power / noise), abs=0.5)


def test_four_bits_are_refused_for_convolutions_by_name() -> None:
    build = Builder()
    image = build.input(1, 8, 8, 32)
    x = build.op("CONV_2D", image, build.weight(64, 3, 3, 32), build.weight(64), shape=(1, 8, 8, 64))
    graph = build.finish(dense(build, x))
    with pytest.raises(Unsupported, match=r"CONV_2D.*int8-weight"):
        recipes.four_bit_recipe(graph)


def test_half_precision_keeps_weights_that_it_cannot_hold() -> None:
    build = Builder()
    x = build.input(1, 4)
    big = build.tensor(4, 4, data=np.full((4, 4), 7e4, np.float32))
    out = dense(build, build.op("FULLY_CONNECTED", x, big, -1))
    _, wide = recipes.half_recipe(build.finish(out))
    assert [op.inputs[1] for op in wide] == [big]


def outside(model: Any) -> bytes:
    """The file with each buffer's data behind the FlatBuffer, as the quantizer writes larger models."""
    import flatbuffers

    data = [buffer.data for buffer in model.buffers]
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data, buffer.offset, buffer.size = None, 2**40, 2**40
    offsets: list[tuple[int, int]] = []
    for _ in range(2):  # the second time with the offsets that the first one's length gives
        for buffer, (offset, size) in zip([b for b in model.buffers if b.size], offsets, strict=False):
            buffer.offset, buffer.size = offset, size
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        head = bytes(builder.Output())
        at, tail, offsets = len(head), b"", []
        for content in data:
            if content is not None:
                offsets.append((at + len(tail), len(content)))
                tail += bytes(content)
    return head + tail


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 70), min_size=1, max_size=5), behind=st.booleans())
def test_every_buffer_is_written_inside_the_file_and_aligned(sizes: list[int], behind: bool) -> None:
    build = Builder()
    wanted = [np.arange(size, dtype=np.float32) + index for index, size in enumerate(sizes)]
    x = build.input(1, 4)
    for values in wanted:
        build.op("ADD", x, build.tensor(len(values), data=values))
    build.finish(x)
    given_file = outside(build.model) if behind else flatbuffer.write(build.model)
    written = flatbuffer.write(flatbuffer.read(given_file))
    packed = schema.Model.GetRootAs(written, 0)
    held = []
    for index in range(packed.BuffersLength()):
        buffer = packed.Buffers(index)
        assert buffer.Offset() == 0
        assert buffer.Size() == 0
        if buffer.DataLength():
            assert written.find(buffer.DataAsNumpy().tobytes()) >= 0
            assert (buffer._tab.Vector(buffer._tab.Offset(4))) % 16 == 0
            held.append(buffer.DataAsNumpy().view(np.float32))
    assert len(held) == len(wanted)
    assert all(np.array_equal(a, b) for a, b in zip(held, wanted, strict=True))
    assert flatbuffer.write(flatbuffer.read(written)) == written


@given(names=st.lists(st.sampled_from([b"a", b"b", b"a;1", b"", b"a;2"]), min_size=1, max_size=8))
def test_tensor_names_become_unique_and_first_ones_are_kept(names: list[bytes]) -> None:
    build = Builder()
    for name in names:
        build.graph.tensors[build.tensor(1)].name = name
    flatbuffer.make_names_unique(build.model)
    made = [tensor.name for tensor in build.graph.tensors]
    assert len(set(made)) == len(made)
    assert made[0] == (names[0] or made[0])
