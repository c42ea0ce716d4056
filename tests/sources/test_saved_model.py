"""SavedModels: real ones open with the right facts, hostile and damaged ones give one error with its place."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport import sources
from modelport.sources import saved_model
from modelport.sources.saved_model.operators import ALLOWED, CHECKPOINT
from modelport.targets.errors import SourceUnreadable, UsageError
from wire import field, number


def pair(key: int, name: str, payload: bytes) -> bytes:
    return field(key, field(1, name) + field(2, payload))


def shape(sizes: list[int]) -> bytes:
    return b"".join(field(2, number(1, size)) for size in sizes)


def node(name: str, op: str, inputs: Sequence[str] = (), **attributes: bytes) -> bytes:
    attributes = {"_output_shapes": field(1, field(7, shape([-1, 3]))), **attributes}
    attrs = b"".join(pair(5, key, value) for key, value in attributes.items())
    return field(1, name) + field(2, op) + b"".join(field(3, item) for item in inputs) + attrs


def const(name: str, sizes: list[int], content: bytes = b"", dtype: int = 1, extra: bytes = b"") -> bytes:
    tensor = number(1, dtype) + field(2, shape(sizes)) + (field(4, content) if content else b"") + extra
    return node(name, "Const", dtype=number(6, dtype), value=field(8, tensor))


def text(name: str, value: str) -> bytes:
    return const(name, [], dtype=7, extra=field(8, value))


def function(name: str, nodes: list[bytes], arguments: dict[str, int], result: str = "") -> bytes:
    signature = field(1, name)
    signature += b"".join(field(2, field(1, key) + number(3, dtype)) for key, dtype in arguments.items())
    signature += field(3, field(1, "out")) if result else b""
    body = b"".join(field(3, item) for item in nodes)
    return field(1, signature) + body + (field(4, field(1, "out") + field(2, result)) if result else b"")


def call(name: str, target: str, inputs: Sequence[str] = ()) -> bytes:
    return node(name, "StatefulPartitionedCall", inputs, f=field(10, field(1, target)))


def info(tensor: str, sizes: list[int], dtype: int = 1) -> bytes:
    return field(1, tensor) + number(2, dtype) + field(3, shape(sizes))


def model(
    nodes: list[bytes],
    functions: Sequence[bytes] = (),
    output: str = "y:0",
    signature: str = "serving_default",
    extra: bytes = b"",
    tags: tuple[str, ...] = ("serve",),
) -> bytes:
    library = b"".join(field(1, item) for item in functions)
    graph = b"".join(field(1, item) for item in nodes) + field(2, library)
    served = pair(1, "x", info("x:0", [-1, 3])) + pair(2, "y", info(output, [-1, 3]))
    meta = field(1, b"".join(field(4, tag) for tag in tags)) + field(2, graph)
    return number(1, 1) + field(2, meta + pair(5, signature, served) + extra)


X = node("x", "Placeholder")
GOOD = model([X, node("y", "Relu", ["x"])])
PATH = node("path", "Placeholder")


def write(folder: Path, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_bytes(data)
    return folder


def refused(folder: Path, data: bytes) -> str:
    started = time.monotonic()
    with pytest.raises(SourceUnreadable) as caught:
        saved_model.open(write(folder, data))
    assert time.monotonic() - started < 2
    assert "saved_model.pb" in caught.value.where
    return str(caught.value)


def test_a_small_graph_opens_with_its_facts(tmp_path: Path) -> None:
    source = saved_model.open(write(tmp_path, GOOD))
    facts = saved_model.inspect(source)
    assert [(io.name, io.dtype, io.shape) for io in facts.inputs] == [("x", "float32", (None, 3))]
    assert [(op.kind, op.op_class, op.flops) for op in facts.ops] == [("Relu", "elementwise", 3)]
    assert facts.peak_activations == 6
    assert list(saved_model.signatures(source)) == ["serving_default"]


def test_the_only_signature_is_the_default_and_several_are_not(tmp_path: Path) -> None:
    source = saved_model.open(write(tmp_path, model([X, node("y", "Relu", ["x"])], signature="score")))
    assert list(saved_model.signatures(source)) == ["score"]
    served = pair(1, "x", info("x:0", [-1, 3])) + pair(2, "y", info("y:0", [-1, 3]))
    two = model([X, node("y", "Relu", ["x"])], signature="a", extra=pair(5, "b", served))
    write(tmp_path, two)
    source = sources.open_source(tmp_path)
    with pytest.raises(UsageError, match="2 signatures") as caught:
        sources.inspect(source)
    assert "a, b" in caught.value.mend


def test_the_signature_that_is_asked_for_is_inspected(tmp_path: Path) -> None:
    served = pair(1, "other", info("x:0", [-1, 3])) + pair(2, "y", info("y:0", [-1, 3]))
    data = model([X, node("y", "Relu", ["x"])], signature="a", extra=pair(5, "b", served))
    write(tmp_path, data)
    source = sources.open_source(tmp_path)
    assert [io.name for io in sources.inspect(source, signature="a").inputs] == ["x"]
    assert [io.name for io in sources.inspect(source, signature="b").inputs] == ["other"]
    with pytest.raises(UsageError, match="no signature 'c'"):
        sources.inspect(source, signature="c")


def test_every_operator_that_touches_the_world_is_refused(tmp_path: Path) -> None:
    for op in ("PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles", "PrintV2",
               "InitializeTableFromTextFileV2", "ImmutableConst", "IteratorGetNext", "TFRecordDataset", "RemoteCall",
               "DecodeJpeg", "ParseExampleV2", "XlaCallModule", "MyCustomOp", "DatasetFromGraph", "LMDBReader",
               "DebugIdentityV2", "WriteSummary", "RpcCall", "CollectiveReduce", "TPUExecute", "_Send"):  # fmt: skip
        assert op not in ALLOWED
        message = refused(tmp_path, model([X, node("y", op, ["x"])]))
        assert repr(op) in message
        assert "'y'" in message


def test_a_hostile_operator_inside_a_function_is_found(tmp_path: Path) -> None:
    hidden = function("inner", [node("evil", "EagerPyFunc")], {})
    message = refused(tmp_path, model([X, node("y", "Relu", ["x"])], [hidden]))
    assert "'inner'" in message
    assert "'evil'" in message


SAVE = node("save", "SaveV2", ["name", "t", "t", "x"])
MERGE = node("merge", "MergeV2Checkpoints", ["path", "name"])
NAMES = const("t", [0], dtype=7)


@pytest.mark.parametrize(
    "data",
    [
        # Writes at a path of the model's own: in the graph, as a default, joined, climbing out, merged.
        model([X, node("y", "Relu", ["x"]), text("name", "/etc/hostname"), NAMES, SAVE]),
        model([X, node("y", "Relu", ["x"]), text("d", "/etc/x"), NAMES,
               node("name", "PlaceholderWithDefault", ["d"]), SAVE]),
        model([X, node("y", "Relu", ["x"]), PATH, text("d", "/../../etc/x"), NAMES,
               node("name", "StringJoin", ["path", "d"]), SAVE]),
        model([X, node("y", "Relu", ["x"]), PATH, text("name", "/etc/x"), MERGE]),
        # The saver run by a signature, by data or by control.
        model([X, PATH, NAMES, node("name", "Identity", ["path"]), SAVE, node("y", "Relu", ["x", "^save"])]),
        # A function with a saver inside, called with a path of the model's own, or by another function.
        model([X, text("name", "/etc/x"), call("s", "saver", ["name"]), node("y", "Relu", ["x"])],
              [function("saver", [node("r", "RestoreV2", ["p", "p", "p"])], {"p": 7})]),
        model([X, node("y", "Relu", ["x"])],
              [function("saver", [node("r", "RestoreV2", ["p", "p", "p"])], {"p": 7}),
               function("outer", [call("c", "saver", ["q"])], {"q": 7})]),
        model([X, node("y", "Relu", ["x"])], [function("saver", [node("r", "RestoreV2", [])], {})]),
    ],
)  # fmt: skip
def test_only_the_saver_may_touch_files_and_only_at_the_path_it_is_given(tmp_path: Path, data: bytes) -> None:
    assert "reads or writes files" in refused(tmp_path, data)


def test_a_usual_saver_is_accepted(tmp_path: Path) -> None:
    body = [text("part", "_temp/part"), node("name", "StringJoin", ["p", "part:output:0"]), NAMES,
            node("w", "SaveV2", ["name:output:0", "t:output:0", "t:output:0"]),
            node("m", "MergeV2Checkpoints", ["name:output:0", "p"])]  # fmt: skip
    graph = [X, node("y", "Relu", ["x"]), PATH, call("s", "saver", ["path"])]
    saved_model.open(write(tmp_path, model(graph, [function("saver", body, {"p": 7})])))


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (model([X, call("y", "nowhere", ["x"])]), "'nowhere' is missing"),
        (model([X, X, node("y", "Relu", ["x"])]), "two nodes have one name"),
        (model([X, node("y", "Relu", ["x"])], [function("f", [call("c", "f")], {})]), "calls itself"),
        (
            model(
                [X, node("y", "Relu", ["x"])],
                [function(f"f{n}", [call("c", f"f{n + 1}")], {}) for n in range(40)]
                + [function("f40", [], {})],
            ),
            "nest deeper",
        ),
        (model([X, node("y", "Relu", ["x"]), const("c", [9, 9], bytes(4))]), "4 bytes where .* needs 324"),
        (model([X, node("y", "Relu", ["x"]), const("c", [1 << 40])]), "repeated for the shape"),
        (model([X, node("y", "Relu", ["x"]), const("c", [-3], bytes(4))]), "not valid"),
        (
            model(
                [X, node("y", "Fill", ["d", "x"]), const("d", [2], extra=number(7, 1 << 20) * 2, dtype=3)],
            ),
            "makes a tensor of shape",
        ),
        (model([X, node("y", "Relu", ["x"])], output="nowhere:0", signature="__init"), "no signature"),
        (
            model([X, node("y", "Relu", ["x"])], tags=("train",)).replace(b"\x08\x01", b"\x08\x09", 1),
            "schema",
        ),
        (number(1, 1), "no graph"),
        (b"", "empty"),
    ],
)
def test_damaged_models_are_refused_by_name(tmp_path: Path, data: bytes, fact: str) -> None:
    with pytest.raises(SourceUnreadable, match=fact):
        saved_model.open(write(tmp_path, data))


def test_a_variable_that_is_stored_nowhere_is_named(tmp_path: Path) -> None:
    handle = node(
        "w", "VarHandleOp", dtype=number(6, 1), shape=field(7, shape([3, 3])), shared_name=field(2, "dense/w")
    )
    data = model([X, handle, node("r", "ReadVariableOp", ["w"]), node("y", "MatMul", ["x", "r"])])
    with pytest.raises(SourceUnreadable, match="stored nowhere") as caught:
        saved_model.open(write(tmp_path, data))
    assert "dense/w" in caught.value.where


def test_assets_must_lie_in_their_folder(tmp_path: Path) -> None:
    for name, fact in (("../../etc/passwd", "out of the model"), ("missing.txt", "missing")):
        assert fact in refused(tmp_path, model([X, node("y", "Relu", ["x"])], extra=field(6, field(2, name))))
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/vocab.txt").write_text("a")
    data = model([X, node("y", "Relu", ["x"])], extra=field(6, field(2, "vocab.txt")))
    assert [file.name for file in saved_model.open(write(tmp_path, data)).files] == [
        "vocab.txt",
        "saved_model.pb",
    ]


def test_other_forms_that_tensorflow_would_read_instead_are_refused(tmp_path: Path) -> None:
    for other in ("saved_model.cpb", "saved_model.pbtxt"):
        folder = write(tmp_path / other, GOOD)
        (folder / other).touch()
        assert saved_model.recognises(folder)
        with pytest.raises(SourceUnreadable, match=other):
            saved_model.open(folder)
    assert not saved_model.recognises(tmp_path)
    assert not saved_model.recognises(tmp_path / "missing")


@given(cut=st.integers(1, len(GOOD) - 1))
@settings(max_examples=150, deadline=None)
def test_every_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    refused(tmp_path_factory.mktemp("cut"), GOOD[:cut])


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_opens_or_gives_one_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    data = bytearray(GOOD)
    data[at] = byte
    try:
        saved_model.inspect(saved_model.open(write(tmp_path_factory.mktemp("flip"), bytes(data))))
    except SourceUnreadable as error:
        assert error.where  # noqa: PT017 - either outcome is right


def test_calls_that_double_at_every_level_are_refused(tmp_path: Path) -> None:
    bodies = [
        function(
            f"f{n}", [call("a", f"f{n + 1}", ["v"]), call("b", f"f{n + 1}", ["a:out:0"])], {"v": 1}, "b:out:0"
        )
        for n in range(30)
    ]
    last = function("f30", [node("r", "Relu", ["v"])], {"v": 1}, "r:out:0")
    assert "unfold" in refused(tmp_path, model([X, call("y", "f0", ["x"])], [*bodies, last]))


def test_the_lists_of_operators_do_not_contradict() -> None:
    assert CHECKPOINT <= ALLOWED
    assert {"Conv2D", "MatMul", "Softmax", "While", "VarHandleOp", "StatefulPartitionedCall"} <= ALLOWED


@pytest.fixture(scope="module")
def tf():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow")


@pytest.mark.slow
def test_a_trained_keras_model_exported_both_ways(tf, tmp_path: Path) -> None:
    import keras
    import numpy as np

    layers = keras.layers
    net = keras.Sequential(
        [keras.Input((8, 8, 1), name="image"), layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU(),
         layers.DepthwiseConv2D(3), layers.Flatten(), layers.Dense(5, activation="softmax")]
    )  # fmt: skip
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(np.zeros((4, 8, 8, 1), "float32"), np.zeros(4), verbose=0)
    net.export(tmp_path / "export", verbose=False)
    tf.saved_model.save(net, str(tmp_path / "saved"))
    for name in ("export", "saved"):
        facts = saved_model.inspect(saved_model.open(tmp_path / name))
        assert facts.parameters == net.count_params()
        costs = {op.kind: op.flops for op in facts.ops}
        assert costs["Conv2D"] == 2 * 6 * 6 * 6 * 9
        assert costs["DepthwiseConv2dNative"] == 2 * 4 * 4 * 6 * 9
        assert costs["MatMul"] == 2 * 96 * 5
        assert facts.flops is not None
        assert facts.peak_activations is not None
    # The whole training state is stored by save, and does not count.
    assert any("optimizer state" in note for note in facts.notes)


@pytest.mark.slow
def test_signatures_agree_with_tensorflow_own_reading(tf, tmp_path: Path) -> None:
    class Two(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(tf.zeros((8, 4)), name="w")

        @tf.function(input_signature=[tf.TensorSpec((None, 8)), tf.TensorSpec((None, 4), tf.int32)])
        def run(self, zebra, apple):
            return {"sum": tf.matmul(zebra, self.w) + tf.cast(apple, tf.float32), "ids": apple}

        @tf.function(input_signature=[tf.TensorSpec((2, 8), tf.float16)])
        def half(self, x):
            return x

    module = Two()
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.run, "half": module.half})
    found = saved_model.signatures(saved_model.open(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path)).signatures
    assert set(found) == set(loaded)
    for name, (inputs, outputs) in found.items():
        for values, specs in (
            (inputs, loaded[name].structured_input_signature[1]),
            (outputs, loaded[name].structured_outputs),
        ):
            assert {io.name: (io.dtype, io.shape) for io in values} == {
                key: (spec.dtype.name, tuple(spec.shape)) for key, spec in specs.items()
            }
    assert saved_model.inspect(saved_model.open(tmp_path)).parameters == 32


@pytest.mark.slow
def test_a_model_of_tensorflow_1_with_its_training_graph(tf, tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 6), name="x")
        w = v1.get_variable("w", (6, 3), use_resource=True)
        y = tf.nn.softmax(x @ w)
        v1.train.AdamOptimizer().minimize(tf.reduce_mean(y**2))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "m"), {"x": x}, {"y": y})
    facts = saved_model.inspect(saved_model.open(tmp_path / "m"))
    assert [(tensor.name, tensor.shape) for tensor in facts.tensors] == [("w", (6, 3))]
    assert any("4 tensors of optimizer state" in note for note in facts.notes)
    assert [op.kind for op in facts.ops] == ["MatMul", "Softmax"]


@pytest.mark.slow
def test_python_in_a_real_model_is_refused(tf, tmp_path: Path) -> None:
    class Evil(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((2,))])
        def run(self, x):
            return tf.numpy_function(lambda v: v, [x], tf.float32)

    module = Evil()
    tf.saved_model.save(module, str(tmp_path), {"serving_default": module.run})
    with pytest.raises(SourceUnreadable, match="PyFunc"):
        saved_model.open(tmp_path)
