"""ONNX models: good ones open with the right facts, damaged and hostile ones give one error with its place."""

import contextlib
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.sources import onnx
from modelport.sources.onnx import facts as onnx_facts
from modelport.targets.errors import SourceUnreadable
from wire import field, number


def tensor(name: str, dims: list[int], raw: bytes | None, dtype: int = 1, extra: bytes = b"") -> bytes:
    data = b"" if raw is None else field(9, raw)
    return b"".join(number(1, dim) for dim in dims) + number(2, dtype) + field(8, name) + data + extra


def outside(name: str, dims: list[int], **entries: object) -> bytes:
    pairs = b"".join(field(13, field(1, key) + field(2, str(value))) for key, value in entries.items())
    return tensor(name, dims, None, extra=pairs + number(14, 1))


def value(name: str, dims: list[int | str], dtype: int = 1) -> bytes:
    shape = b"".join(field(1, number(1, dim) if isinstance(dim, int) else field(2, dim)) for dim in dims)
    return field(1, name) + field(2, field(1, number(1, dtype) + field(2, shape)))


def node(op: str, inputs: list[str], outputs: list[str], domain: str = "", extra: bytes = b"") -> bytes:
    names = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs)
    return names + field(3, f"the_{op}") + field(4, op) + field(7, domain) + extra


def model(
    nodes: list[bytes],
    tensors: Sequence[bytes] = (),
    inputs: Sequence[bytes] = (),
    outputs: Sequence[bytes] = (),
    *,
    ir: int = 10,
    opset: int = 21,
    extra: bytes = b"",
    graph_extra: bytes = b"",
) -> bytes:
    graph = b"".join(field(1, item) for item in nodes) + field(2, "g")
    graph += b"".join(field(5, item) for item in tensors)
    graph += b"".join(field(11, item) for item in inputs) + b"".join(field(12, item) for item in outputs)
    return number(1, ir) + field(8, number(2, opset)) + field(7, graph + graph_extra) + extra


X, Y = value("x", ["batch", 3]), value("y", ["batch", 2])
WEIGHT = tensor("w", [3, 2], bytes(24))
MATMUL = node("MatMul", ["x", "w"], ["y"])
GOOD = model([MATMUL], [WEIGHT], [X], [Y])


def write(folder: Path, data: bytes, name: str = "model.onnx") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def refused(folder: Path, data: bytes) -> str:
    started = time.monotonic()
    with pytest.raises(SourceUnreadable) as caught:
        onnx.open(write(folder, data))
    assert time.monotonic() - started < 2
    assert caught.value.where.startswith("model.onnx")
    return str(caught.value)


def test_a_linear_layer_opens_with_its_facts(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "weights.bin")
    assert onnx.recognises(path)
    facts = onnx.inspect(onnx.open(path))
    assert [(io.name, io.dtype, io.shape) for io in facts.inputs] == [("x", "float32", ("batch", 3))]
    assert [io.name for io in facts.outputs] == ["y"]
    assert facts.parameters == 6
    assert [(op.kind, op.op_class, op.flops, op.weights) for op in facts.ops] == [("MatMul", "gemm", 12, 6)]
    assert facts.peak_activations == 5
    assert facts.assumed == {"batch": 1}


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    for name, data in {
        "a": b"",
        "b": b"PK\x03\x04",
        "c": b"\x08\x0a",
        "d": os.urandom(64),
        "e": b"GGUF",
    }.items():
        assert not onnx.recognises(write(tmp_path, data, name))
    assert not onnx.recognises(tmp_path)


@given(cut=st.integers(1, len(GOOD) - 1))
@settings(max_examples=200, deadline=None)
def test_every_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    assert "model.onnx" in refused(folder, GOOD[:cut])


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_opens_or_gives_one_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    data = bytearray(GOOD)
    data[at] = byte
    path = write(tmp_path_factory.mktemp("flip"), bytes(data))
    try:
        onnx.inspect(onnx.open(path))
    except SourceUnreadable as error:
        assert error.where.startswith("model.onnx")  # noqa: PT017 - either outcome is right


LOOP = [node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"])]
CALLS_ITSELF = field(25, field(1, "F") + field(10, "own") + field(7, node("F", [], ["r"], "own")))


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (model([MATMUL], [WEIGHT], [X], [Y], ir=99), "IR version 99"),
        (model([MATMUL], [WEIGHT], [X], [Y], opset=99), "opset 99"),
        (model([MATMUL], [tensor("w", [3, 2], bytes(20))], [X], [Y]), "20 bytes where .* needs 24"),
        (model([MATMUL], [tensor("w", [3, 2], None)], [X], [Y]), "0 values where"),
        (model([MATMUL], [tensor("w", [-3, 2], bytes(24))], [X], [Y]), "not valid"),
        (model([MATMUL], [tensor("w", [3, 2], bytes(24), 77)], [X], [Y]), "data type 77"),
        (model([MATMUL], [tensor("w", [1 << 40, 1 << 40], bytes(24))], [X], [Y]), "needs"),
        (model([MATMUL], [WEIGHT, WEIGHT], [X], [Y]), "two of them are named 'w'"),
        (model([MATMUL], [], [X], [Y]), "'w', which nothing makes"),
        (model([MATMUL, MATMUL], [WEIGHT], [X], [Y]), "two of them are named 'y'"),
        (model(LOOP, [], [], [value("a", [1])]), "circle"),
        (model([MATMUL], [WEIGHT], [X], [value("z", [1])]), "nothing makes this value"),
        (model([MATMUL], [WEIGHT], [X], []), "no output"),
        (model([node("Evil", ["x"], ["y"], "evil.corp")], [], [X], [Y]), "evil.corp::Evil"),
        (model([node("PythonOp", ["x"], ["y"], "com.microsoft")], [], [X], [Y]), "PythonOp"),
        (model([MATMUL], [WEIGHT], [X], [Y], extra=CALLS_ITSELF), "calls itself"),
        (model([MATMUL], [WEIGHT], [X], [Y], graph_extra=field(15, b"")), "sparse"),
        (number(1, 10) + field(8, number(2, 21)), "no graph"),
        (b"", "empty"),
    ],
)
def test_inconsistent_models_are_refused_by_name(tmp_path: Path, data: bytes, fact: str) -> None:
    with pytest.raises(SourceUnreadable, match=fact):
        onnx.open(write(tmp_path, data))


def test_a_deep_nest_of_subgraphs_is_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(40):
        graph = field(1, node("If", [], [], extra=field(5, field(1, "then_branch") + field(6, graph))))
    assert "deeper" in refused(
        tmp_path, number(1, 10) + field(8, number(2, 21)) + field(7, graph + field(12, Y))
    )


def integers(name: str, values: list[int]) -> bytes:
    return tensor(name, [len(values)], struct.pack(f"<{len(values)}q", *values), 7)


OUT = [value("y", ["n"])]


@pytest.mark.parametrize(
    ("nodes", "tensors"),
    [
        ([node("ConstantOfShape", ["s"], ["y"])], [integers("s", [1 << 36])]),
        ([node("Expand", ["w", "s"], ["y"])], [integers("s", [1 << 20, 1 << 20]), tensor("w", [1], bytes(4))]),
        (
            [node("Concat", ["s", "s"], ["t"], extra=field(5, field(1, "axis") + number(3, 0))),
             node("ConstantOfShape", ["t"], ["y"])],
            [integers("s", [1 << 18])],
        ),
        ([node("Mul", ["s", "s"], ["t"]), node("ConstantOfShape", ["t"], ["y"])], [integers("s", [1 << 18])]),
        ([node("Tile", ["w", "s"], ["y"])], [integers("s", [1 << 34]), tensor("w", [1], bytes(4))]),
        (
            [node("Range", ["a", "b", "c"], ["y"])],
            [integers("a", [0]), integers("b", [1 << 50]), integers("c", [1])],
        ),
        (
            [node("Unsqueeze", ["w", "zero"], ["a"]), node("Unsqueeze", ["w", "one"], ["b"]),
             node("Add", ["a", "b"], ["y"])],
            [tensor("w", [40000], bytes(160000)), integers("zero", [0]), integers("one", [1])],
        ),
    ],
)  # fmt: skip
def test_constants_that_blow_up_are_refused(tmp_path: Path, nodes: list[bytes], tensors: list[bytes]) -> None:
    assert "makes a constant of shape" in refused(tmp_path, model(nodes, tensors, [], OUT))


def test_hostile_shape_arithmetic_never_crashes(tmp_path: Path) -> None:
    operators = (
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Concat",
        "Tile",
        "Expand",
        "OneHot",
        "Range",
        "Transpose",
        "Div",
    )
    for op in operators:
        for inputs in ([], ["s"], ["s", "s"], ["s", "big", "s"], ["e", "e"], ["", "s"]):
            data = model(
                [node(op, inputs, ["y"])],
                [integers("s", [-5, 0, 1 << 62]), integers("big", [9]), integers("e", [])],
                [],
                OUT,
            )
            with contextlib.suppress(SourceUnreadable):
                onnx.inspect(onnx.open(write(tmp_path, data)))


def test_external_data_is_accepted_inside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(100))
    data = model([MATMUL], [outside("w", [3, 2], location="w.bin", offset=64, length=24)], [X], [Y])
    source = onnx.open(write(tmp_path, data))
    assert [file.name for file in source.files] == ["model.onnx", "w.bin"]
    assert onnx.inspect(source).parameters == 6


@pytest.mark.parametrize(
    ("entries", "fact"),
    [
        ({"location": "../w.bin"}, "out of the model's folder"),
        ({"location": "/etc/passwd"}, "out of the model's folder"),
        ({"location": "link.bin"}, "by a link"),
        ({"location": "missing.bin"}, "missing"),
        ({"location": "."}, "not a regular file"),
        ({"location": "w.bin", "offset": 80}, "which has 100"),
        ({"location": "w.bin", "length": 20}, "needs 24"),
        ({"location": "w.bin", "offset": -1}, "no number of bytes"),
        ({"location": "w.bin", "offset": "9" * 30}, "no number of bytes"),
        ({}, "not a file name"),
    ],
)
def test_external_data_must_lie_where_it_may(tmp_path: Path, entries: dict[str, object], fact: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(100))
    (folder / "w.bin").write_bytes(bytes(100))
    (folder / "link.bin").symlink_to("/etc/hostname")
    message = refused(folder, model([MATMUL], [outside("w", [3, 2], **entries)], [X], [Y]))
    assert fact in message
    assert "'w'" in message


def test_external_tensors_may_share_bytes_but_not_overlap(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(100))

    def two(offset: int) -> bytes:
        first = outside("w", [3, 2], location="w.bin")
        second = outside("v", [2, 3], location="w.bin", offset=offset)
        return model([MATMUL], [first, second], [X], [Y])

    onnx.open(write(tmp_path, two(0)))
    onnx.open(write(tmp_path, two(24)))
    assert "overlaps" in refused(tmp_path, two(8))


def test_symbolic_dimensions_are_computed_and_nothing_else_is() -> None:
    sizes = {"sequence": 128, "s0": 3}
    assert onnx_facts.evaluate("Min(512, sequence)", sizes) == 128
    assert onnx_facts.evaluate("2*s0 + sequence//64", sizes) == 8
    for text in ("__import__('os')", "s0.real", "s0**9**9", "9" * 300, "batch size", "1//0", ""):
        assert onnx_facts.evaluate(text, sizes) is None


def test_nodes_out_of_order_are_accepted_and_sorted(tmp_path: Path) -> None:
    nodes = [node("Relu", ["h"], ["y"]), node("MatMul", ["x", "w"], ["h"])]
    facts = onnx.inspect(onnx.open(write(tmp_path, model(nodes, [WEIGHT], [X], [Y]))))
    assert [op.kind for op in facts.ops] == ["MatMul", "Relu"]


def test_large_weights_are_not_read(tmp_path: Path) -> None:
    data = model([MATMUL], [outside("w", [1 << 16, 1 << 14], location="w.bin")], [X], [Y])
    path = write(tmp_path, data)
    with (tmp_path / "w.bin").open("wb") as stream:
        stream.truncate(4 << 30)
    started = time.monotonic()
    assert onnx.inspect(onnx.open(path)).weight_bytes == 4 << 30
    assert time.monotonic() - started < 1


@pytest.mark.slow
def test_onnx_own_corpus_opens() -> None:
    """Every model that the onnx package ships opens, bar those for training or older than opset 7."""
    package = pytest.importorskip("onnx")
    root = Path(package.__file__).parent / "backend/test/data"
    opened = 0
    for path in sorted(root.rglob("*.onnx")):
        assert onnx.recognises(path), path
        try:
            onnx.inspect(onnx.open(path))
            opened += 1
        except SourceUnreadable as error:
            assert "opset 6 " in str(error) or "training::Gradient" in str(error), path  # noqa: PT017
    assert opened >= 25


@pytest.mark.slow
def test_shapes_and_operations_of_a_torch_export_agree_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    layers = torch.nn
    net = layers.Sequential(
        layers.Conv2d(3, 8, 3, padding=1), layers.ReLU(), layers.Conv2d(8, 8, 3, groups=8), layers.MaxPool2d(2),
        layers.Flatten(), layers.Linear(8 * 7 * 7, 10),
    ).eval()  # fmt: skip
    batch = torch.zeros(1, 3, 16, 16)
    path = tmp_path / "net.onnx"
    shapes = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        net, (torch.zeros(2, 3, 16, 16),), path, dynamo=True, dynamic_shapes=[shapes], verbose=False
    )
    facts = onnx.inspect(onnx.open(path))
    with FlopCounterMode(display=False) as counter:
        net(batch)
    heavy = sum(op.flops or 0 for op in facts.ops if op.op_class in ("conv", "depthwise", "gemm", "matmul"))
    assert heavy == counter.get_total_flops()
    assert {op.op_class for op in facts.ops} >= {"conv", "depthwise", "gemm", "pool"}
    assert facts.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert facts.peak_activations == 2 * 8 * 16 * 16


@pytest.mark.slow
def test_missing_shapes_are_inferred_without_the_weights(tmp_path: Path) -> None:
    package = pytest.importorskip("onnx")
    helper = package.helper
    weight = helper.make_tensor("w", 1, [64, 64, 3, 3], bytes(64 * 64 * 9 * 4), raw=True)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["h"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", 1, [None, 64, None, None])
    graph = helper.make_graph(
        nodes, "g", [given], [helper.make_tensor_value_info("y", 1, [None, 64])], [weight]
    )
    path = tmp_path / "m.onnx"
    package.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    facts = onnx.inspect(onnx.open(path))
    assert facts.ops[0].flops == 2 * 64 * 224 * 224 * 64 * 9
    assert facts.flops is not None
    assert facts.assumed == {"x[0]": 1, "x[2]": 224, "x[3]": 224}


def test_a_size_below_nothing_is_unknown(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        model(
            [node("Conv", ["x", "w"], ["y"])],
            [tensor("w", [4, 1, 9], bytes(144))],
            [value("x", ["batch", "channels", "time"])],
            [value("y", ["batch", 4, "time - 8"])],
        ),
    )
    facts = onnx.inspect(onnx.open(path))
    assert facts.ops[0].flops is None  # one sample is shorter than the kernel: not -7 of them


def test_the_free_length_of_a_signal_is_taken_as_a_second(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        model(
            [node("Conv", ["x", "w"], ["y"])],
            [tensor("w", [4, 1, 9], bytes(144))],
            [value("x", ["batch", 1, "time"])],
            [value("y", ["batch", 4, "time - 8"])],
        ),
    )
    facts = onnx.inspect(onnx.open(path))
    assert facts.ops[0].flops == 2 * 4 * 9 * (16000 - 8)
