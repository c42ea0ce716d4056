"""Keras archives: real ones open with the right facts, hostile and damaged ones give one error with its place."""

import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.sources import keras
from modelport.sources.keras import check as keras_check
from modelport.sources.keras import layers as keras_layers
from modelport.targets.errors import SourceUnreadable

h5py = pytest.importorskip("h5py")


def layer(name: str, class_name: str, module: str = "keras.layers", **config: Any) -> dict[str, Any]:
    return {
        "module": module,
        "class_name": class_name,
        "config": {"name": name, **config},
        "registered_name": None,
    }


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    config = {
        "name": "net",
        "layers": [layer("x", "InputLayer", batch_shape=[None, 4], dtype="float32"), *layers],
    }
    return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}


def weights(tensors: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for path, value in tensors.items():
            file[path] = value
    return stream.getvalue()


def archive(path: Path, config: Any, h5: bytes, version: str = "3.15.1", **extra: bytes) -> Path:
    members = {
        "metadata.json": json.dumps({"keras_version": version}).encode(),
        "config.json": config if isinstance(config, bytes) else json.dumps(config).encode(),
        "model.weights.h5": h5,
        **extra,
    }
    with zipfile.ZipFile(path, "w") as target:
        for name, data in members.items():
            target.writestr(name, data)
    return path


DENSE = sequential(layer("y", "Dense", units=3))


def arrays(*shapes: tuple[int, ...]) -> dict[str, Any]:
    import numpy as np

    return {f"layers/dense/vars/{n}": np.zeros(shape, "float32") for n, shape in enumerate(shapes)}


GOOD = weights(arrays((4, 3), (3,)))


def refused(path: Path) -> str:
    started = time.monotonic()
    with pytest.raises(SourceUnreadable) as caught:
        keras.open(path)
    assert time.monotonic() - started < 2
    assert path.name in caught.value.where
    return str(caught.value)


def test_a_small_model_opens_with_its_facts(tmp_path: Path) -> None:
    path = archive(tmp_path / "weights.zip", DENSE, GOOD)
    assert keras.recognises(path)
    facts = keras.inspect(keras.open(path))
    assert [(value.name, value.dtype, value.shape) for value in facts.inputs] == [("x", "float32", (None, 4))]
    assert [(value.name, value.shape) for value in facts.outputs] == [("y", (None, 3))]
    assert [(tensor.name, tensor.shape) for tensor in facts.tensors] == [
        ("layers/dense/vars/0", (4, 3)),
        ("layers/dense/vars/1", (3,)),
    ]
    assert [(op.kind, op.op_class, op.flops) for op in facts.ops] == [("Dense", "gemm", 24)]
    assert facts.peak_activations == 7


@pytest.mark.parametrize(
    ("hostile", "fact"),
    [
        (layer("l", "Lambda", function={"class_name": "__lambda__", "config": {"value": "4wEA"}}), "Lambda"),
        (
            layer("l", "Activation", activation={"class_name": "__lambda__", "config": {"value": "4wEA"}}),
            "__lambda__",
        ),
        (layer("l", "Mine", module="my_package.layers"), "my_package.layers.Mine"),
        (layer("l", "Mine", module="kerasx.layers"), "kerasx.layers.Mine"),
        (layer("l", "get_file", module="keras.utils"), "keras.utils.get_file"),
        (layer("l", "load_model", module="keras.saving"), "keras.saving.load_model"),
        (layer("l", "enable_unsafe_deserialization", module="keras.src.config"), "enable_unsafe"),
        ({**layer("l", "Dense", units=3), "registered_name": "pkg>Dense"}, "pkg>Dense"),
        ({"class_name": "Dense", "config": {"name": "l"}, "registered_name": "pkg>Dense"}, "pkg>Dense"),
        (layer("l", "TFSMLayer", filepath="/tmp/x"), "TFSMLayer"),
        (layer("l", "TorchModuleWrapper", module="keras.layers"), "pickle"),
        (layer("l", "StringLookup", vocabulary="/etc/passwd"), "/etc/passwd"),
        (
            layer(
                "l", "Activation", activation={"class_name": "function", "config": "system", "module": "os"}
            ),
            "os.",
        ),
        (layer("l", "X", spec={"class_name": "__typespec__", "config": []}), "__typespec__"),
    ],
)
def test_code_and_foreign_classes_are_refused_by_layer(
    tmp_path: Path, hostile: dict[str, Any], fact: str
) -> None:
    inside = layer("inner", "TimeDistributed", layer=hostile)
    for config in (sequential(hostile), sequential({**sequential(inside), "name": "nested"})):
        message = refused(archive(tmp_path / "m.keras", config, GOOD))
        assert fact in message
        assert "layer 'l'" in message


def test_a_custom_loss_does_not_matter_because_nothing_is_compiled(tmp_path: Path) -> None:
    config = {**DENSE, "compile_config": {"loss": {"class_name": "MyLoss", "module": "mine", "config": {}}}}
    keras.open(archive(tmp_path / "m.keras", config, GOOD))


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "not a JSON object"),
        (b"{}", "no class_name"),
        ({"class_name": 3, "config": {}}, "no class_name"),
        ({**DENSE, "config": {**DENSE["config"], "a": {"class_name": ["x"]}}}, "class_name is no text"),
    ],
)
def test_a_damaged_config_is_refused(tmp_path: Path, config: Any, fact: str) -> None:
    assert fact in refused(archive(tmp_path / "m.keras", config, GOOD))


def test_old_forms_are_refused_by_name(tmp_path: Path) -> None:
    assert "Keras '2.15.0'" in refused(archive(tmp_path / "old.keras", DENSE, GOOD, version="2.15.0"))
    (tmp_path / "old.h5").write_bytes(GOOD)
    assert keras.recognises(tmp_path / "old.h5")
    assert "HDF5 file of Keras 2" in refused(tmp_path / "old.h5")
    (tmp_path / "other").write_bytes(b"PK\x03\x04 no zip")
    assert not keras.recognises(tmp_path / "other")
    assert not keras.recognises(tmp_path)


def test_a_missing_member_a_bomb_and_a_climbing_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as target:
        target.writestr("metadata.json", "{}")
        target.writestr("config.json", "{}")
    assert "no model.weights.h5" in refused(tmp_path / "m.keras")
    path = archive(tmp_path / "m.keras", DENSE, GOOD, **{"../evil": b"x"})
    assert "leads out" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        target.writestr("config.json", json.dumps(DENSE))
        target.writestr("model.weights.h5", bytes(64 << 20))
    assert "inflates to" in refused(path)


def h5_with(change: Any) -> bytes:
    stream = io.BytesIO(GOOD)
    with h5py.File(stream, "r+") as file:
        change(file)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda f: f.__setitem__("a", h5py.ExternalLink("/etc/passwd", "/x")), "ExternalLink"),
        (lambda f: f.__setitem__("a", h5py.SoftLink("/layers")), "SoftLink"),
        (lambda f: f.__setitem__("a", f["layers"]), "two names lead to one object"),
        (lambda f: f["layers"].__setitem__("loop", f["/"]), "two names lead to one object"),
        (lambda f: f.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)]), "another file"),
        (lambda f: f.create_dataset("a", (1 << 20, 1 << 20), "f4"), "where float32"),
        (
            lambda f: f.create_dataset("a", (1 << 30,), "f4", chunks=(1 << 20,), compression="gzip"),
            "where float32",
        ),
        (lambda f: f.create_dataset("a", data="text"), "not known"),
    ],
)
def test_hdf5_tricks_are_refused(tmp_path: Path, change: Any, fact: str) -> None:
    assert fact in refused(archive(tmp_path / "m.keras", DENSE, h5_with(change)))


def test_a_virtual_dataset_is_refused(tmp_path: Path) -> None:
    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
        file.create_virtual_dataset("a", layout)

    assert "another file" in refused(archive(tmp_path / "m.keras", DENSE, h5_with(virtual)))


def test_a_number_of_weights_that_differs_from_the_layers_is_refused(tmp_path: Path) -> None:
    message = refused(archive(tmp_path / "m.keras", DENSE, weights(arrays((4, 2), (2,)))))
    assert "10 weights are stored, and the layers of config.json have 15" in message
    # A layer whose weights are not known stops the count, not the model.
    unknown = sequential(layer("a", "EinsumDense", equation="ab,bc->ac"), layer("y", "Dense", units=3))
    facts = keras.inspect(keras.open(archive(tmp_path / "m.keras", unknown, GOOD)))
    assert facts.flops is None
    assert facts.ops[0].op_class == "unknown"


@given(cut=st.integers(0, len(GOOD) - 1))
@settings(max_examples=60, deadline=None)
def test_truncated_weights_are_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    refused(archive(tmp_path_factory.mktemp("cut") / "m.keras", DENSE, GOOD[:cut]))


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_in_the_weights_opens_or_gives_one_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    data = bytearray(GOOD)
    data[at] ^= flip
    path = archive(tmp_path_factory.mktemp("flip") / "m.keras", DENSE, bytes(data))
    try:
        keras.inspect(keras.open(path))
    except SourceUnreadable as error:
        assert error.where  # noqa: PT017 - either outcome is right


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["class_name", "config", "layers", "name", "module", "inbound_nodes", "args", "batch_shape",
                         "input_layers", "output_layers", "shape", "keras_history", "units", "layer"]),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON, st.sampled_from(sorted(keras_layers.LAYERS)))
@settings(max_examples=120, deadline=None)
def test_odd_configs_open_or_give_one_error(
    tmp_path_factory: pytest.TempPathFactory, value: Any, class_name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.keras"
    odd = value if isinstance(value, dict) else {"layers": value}
    for config in (
        {"module": "keras.src.models.functional", "class_name": "Functional", "config": odd},
        sequential({"module": "keras.layers", "class_name": class_name, "config": odd}),
        sequential({"module": "keras.layers", "class_name": class_name, "config": value}),
    ):
        archive(path, config, GOOD)
        try:
            keras.inspect(keras.open(path))
        except SourceUnreadable as error:
            assert error.where  # noqa: PT017 - either outcome is right


def test_sizes_that_are_no_numbers_make_a_layer_unknown_and_nothing_large(tmp_path: Path) -> None:
    shapes = {"batch_shape": [None, 1 << 39], "dtype": "float32"}
    for bad in ("a", ["a"], -1, 1 << 50, True, 1.5):
        net = sequential(layer("y", "Dense", units=bad), layer("z", "Reshape", target_shape=["a", -1]))
        net["config"]["layers"][0]["config"].update(shapes)
        facts = keras.inspect(keras.open(archive(tmp_path / "m.keras", net, GOOD)))
        assert facts.ops[0].flops is None


def test_every_refused_class_stands_with_its_reason() -> None:
    for name, reason in keras_check.REFUSED.items():
        with pytest.raises(SourceUnreadable, match=reason):
            keras_check.check_config(sequential(layer("l", name)), "x")


@pytest.fixture(scope="module")
def real():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras")


def check_against_keras(keras_module: Any, net: Any, path: Path) -> Any:
    """Open what Keras saved; parameters, inputs and outputs must be those that it loads again."""
    net.save(path)
    net = keras_module.models.load_model(path, compile=False)
    facts = keras.inspect(keras.open(path))
    assert facts.parameters == net.count_params()
    assert [(io.name, io.shape) for io in facts.inputs] == [(t.name, tuple(t.shape)) for t in net.inputs]
    assert [io.shape for io in facts.outputs] == [tuple(t.shape) for t in net.outputs]
    return facts


@pytest.mark.slow
def test_every_known_layer_has_the_weights_and_shapes_that_keras_gives_it(real, tmp_path: Path) -> None:
    """The count of weights is checked by `open` itself, so a wrong one would be refused."""
    layers = real.layers
    image, tokens, words = (12, 10, 4), (9, 8), (7,)
    cases = [
        (image, [layers.Conv2D(6, (3, 2), strides=2, dilation_rate=1, padding="same", use_bias=False)]),
        (image, [layers.Conv2D(6, 3, dilation_rate=2), layers.Conv2D(6, 3, groups=3)]),
        (image, [layers.Conv2DTranspose(5, 3, strides=2), layers.Activation("tanh")]),
        (image, [layers.DepthwiseConv2D(3, depth_multiplier=2), layers.SeparableConv2D(5, 3, depth_multiplier=2)]),
        (image, [layers.BatchNormalization(scale=False), layers.LayerNormalization(axis=[-1, -2]),
         layers.PReLU(shared_axes=[1, 2])]),
        (image, [layers.MaxPooling2D(3, strides=2, padding="same"), layers.AveragePooling2D(2),
         layers.GlobalMaxPooling2D(keepdims=True)]),
        (image, [layers.ZeroPadding2D(2), layers.UpSampling2D(), layers.Cropping2D(1),
         layers.GlobalAveragePooling2D()]),
        (image, [layers.Flatten(), layers.Dropout(0.5), layers.Dense(6), layers.Softmax(), layers.Reshape((2, -1))]),
        (tokens, [layers.Conv1D(5, 3, padding="causal"), layers.SeparableConv1D(4, 3), layers.DepthwiseConv1D(2)]),
        (tokens, [layers.LSTM(5, return_sequences=True), layers.GRU(6, return_sequences=True), layers.SimpleRNN(3)]),
        (tokens, [layers.GRU(6, reset_after=False), layers.LeakyReLU(), layers.RMSNormalization()]),
        (tokens, [layers.Bidirectional(layers.LSTM(5, return_sequences=True)), layers.Bidirectional(layers.GRU(4))]),
        (words, [layers.Embedding(20, 6), layers.GlobalAveragePooling1D(), layers.Dense(2, use_bias=False)]),
    ]  # fmt: skip
    for shape, stack in cases:
        facts = check_against_keras(real, real.Sequential([real.Input(shape), *stack]), tmp_path / "m.keras")
        assert facts.flops is not None, [op for op in facts.ops if op.flops is None]
        assert facts.peak_activations is not None


@pytest.mark.slow
def test_a_nested_functional_model_with_attention_and_two_inputs(real, tmp_path: Path) -> None:
    layers = real.layers
    steps = real.Input((6, 8), name="steps")
    attended = layers.MultiHeadAttention(2, 4)(steps, steps)
    inner = real.Model(
        steps, layers.GlobalAveragePooling1D()(layers.LayerNormalization()(attended + steps)), name="block"
    )
    a, b, extra = real.Input((6, 8), name="a"), real.Input((6, 8), name="b"), real.Input((3,), name="extra")
    joined = layers.Concatenate()([inner(a), inner(b), extra])
    net = real.Model([a, b, extra], {"score": layers.Dense(2, name="score")(joined)})
    facts = check_against_keras(real, net, tmp_path / "m.keras")
    attention = [op.flops for op in facts.ops if op.name.endswith("/attention")]
    assert attention == [2 * 2 * (2 * 6 * 4 * 6)] * 2
    projections = next(op for op in facts.ops if op.name.endswith("/projections"))
    assert projections.flops == 4 * 2 * 6 * 8 * 8
    assert facts.ops[-1].flops == 2 * 19 * 2


@pytest.mark.slow
def test_a_trained_mobilenet_counts_without_its_optimizer(real, tmp_path: Path) -> None:
    net = real.applications.MobileNetV2((32, 32, 3), weights=None, classes=10, alpha=0.35)
    net.compile("adam", "mse")
    net.optimizer.build(net.trainable_variables)
    facts = check_against_keras(real, net, tmp_path / "m.keras")
    assert any("optimizer state" in note for note in facts.notes)
    assert {op.op_class for op in facts.ops} >= {"conv", "depthwise", "norm", "gemm", "elementwise"}
    assert facts.flops is not None


@pytest.mark.slow
def test_what_keras_itself_saves_with_a_lambda_is_refused(real, tmp_path: Path) -> None:
    net = real.Sequential([real.Input((4,)), real.layers.Lambda(lambda x: x * 2, name="doubler")])
    net.save(tmp_path / "m.keras")
    message = refused(tmp_path / "m.keras")
    assert "layer 'doubler'" in message
    assert "Lambda" in message


@pytest.mark.slow
def test_half_and_bfloat16_weights_are_known(real, tmp_path: Path) -> None:
    for policy, dtype in (("float16", "float16"), ("bfloat16", "bfloat16")):
        net = real.Sequential([real.Input((4,)), real.layers.Dense(3, dtype=policy)])
        facts = check_against_keras(real, net, tmp_path / "m.keras")
        assert set(facts.bytes_by_dtype) == {dtype}
        assert facts.weight_bytes == 2 * 15
