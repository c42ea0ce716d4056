"""Keras archives and SavedModels as ONNX graphs and torch programs compute what TensorFlow computes."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelport
from modelport.exporters import requirements
from modelport.exporters.job import Job, Outcome
from modelport.sources.loading import onnx_program, tensorflow_onnx, torch_model
from modelport.sources.loading import tensorflow as tensorflow_model
from modelport.targets import registry
from modelport.targets.errors import ConversionFailed, MissingExtra, Unsupported

pytestmark = pytest.mark.slow
os.environ["KERAS_BACKEND"] = "tensorflow"
tf: Any = pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
keras: Any = pytest.importorskip("keras")
torch: Any = pytest.importorskip("torch")
onnxruntime: Any = pytest.importorskip("onnxruntime")
layers = keras.layers

CLOSE = 1e-5
"""Largest difference, relative to the largest value of an output."""


def chain(*parts: Any, shape: tuple[int | None, ...] = (12, 5), dtype: str = "float32") -> Any:
    given = result = layers.Input(shape, name="x", dtype=dtype)
    for part in parts:
        result = part(result)
    return keras.Model(given, result)


def two_inputs() -> Any:
    left, right = layers.Input((8,), name="left"), layers.Input((6,), name="right")
    one = layers.Dense(5, activation="gelu")(left)
    other = layers.Dense(5, activation="elu")(right)
    score = layers.Dense(2, name="score")(layers.Multiply()([one, other]))
    probabilities = layers.Dense(3, activation="softmax", name="probabilities")
    return keras.Model([left, right], [probabilities(layers.Concatenate()([one, other])), score])


def attention() -> Any:
    given = layers.Input((10, 16), name="x")
    result = layers.Add()([given, layers.MultiHeadAttention(4, 4)(given, given)])
    return keras.Model(given, layers.LayerNormalization()(result))


def tokens() -> Any:
    given = layers.Input((None,), dtype="int32", name="ids")
    hidden = layers.Embedding(40, 16)(given)
    hidden = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 8)(hidden, hidden))
    return keras.Model(given, layers.Dense(3)(hidden))


def normalised() -> Any:
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 2, (50, 6)).astype("float32"))
    return chain(layer, layers.Rescaling(1 / 127.5, offset=-1), layers.Dense(4), shape=(6,))


MODELS: dict[str, Callable[[], Any]] = {
    "two inputs and outputs": two_inputs,
    "MobileNetV2": lambda: keras.applications.MobileNetV2(weights=None, alpha=0.35, input_shape=(64, 64, 3)),
    "LSTM": lambda: chain(layers.LSTM(7, return_sequences=True), layers.LSTM(4)),
    "GRU": lambda: chain(
        layers.GRU(7, return_sequences=True, reset_after=False), layers.Bidirectional(layers.GRU(4))
    ),
    "SimpleRNN": lambda: chain(
        layers.EinsumDense("abc,cd->abd", output_shape=(12, 6), bias_axes="d"),
        layers.Permute((2, 1)),
        layers.Reshape((6, 12)),
        layers.SimpleRNN(4),
    ),
    "Conv2DTranspose": lambda: chain(
        layers.Conv2D(4, 3, strides=2, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2DTranspose(3, 3, strides=2, padding="same"),
        layers.UpSampling2D(2, interpolation="bilinear"),
        shape=(9, 9, 3),
    ),
    "separable": lambda: chain(
        layers.ZeroPadding2D(1),
        layers.SeparableConv2D(6, 3),
        layers.PReLU(),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.Cropping2D(1),
        layers.AveragePooling2D(2, padding="same"),
        layers.GlobalMaxPooling2D(),
        shape=(11, 11, 3),
    ),
    "Conv1D": lambda: chain(
        layers.Conv1D(6, 3, padding="causal", activation="swish"),
        layers.MaxPooling1D(2),
        layers.Conv1DTranspose(4, 2),
        layers.Flatten(),
        layers.Dense(2),
    ),
    "LayerNormalization": lambda: chain(layers.LayerNormalization(), layers.Dense(4)),
    "GroupNormalization": lambda: chain(
        layers.GroupNormalization(groups=2), layers.UnitNormalization(), shape=(6, 6, 4)
    ),
    "MultiHeadAttention": attention,
    "token ids": tokens,
    "Normalization and Rescaling": normalised,
}


def varied(model: Any) -> Any:
    """The model with weights that no layer starts from: biases, means and variances are not 0 and 1."""
    random = np.random.default_rng(0)
    for weight in model.weights if not isinstance(model.layers[1], layers.Normalization) else ():
        if not weight.dtype.startswith("float"):
            continue
        if len(weight.shape) > 1:
            value = random.normal(size=weight.shape) / np.sqrt(np.prod(weight.shape[:-1]))
        elif "variance" in weight.path or "gamma" in weight.path:
            value = random.uniform(0.5, 1.5, weight.shape)
        else:
            value = random.normal(size=weight.shape) * 0.3
        weight.assign(value)
    return model


def feeds(model: tensorflow_model.TensorflowModel, batch: int, sequence: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    found = {}
    for name, shape, dtype in zip(model.input_names, model.shapes, model.dtypes, strict=True):
        sizes = [batch if axis == 0 and size is None else size or sequence for axis, size in enumerate(shape)]
        found[name] = (
            random.normal(size=sizes).astype(dtype)
            if dtype.startswith("float")
            else random.integers(0, 30, sizes).astype(dtype)
        )
    return found


def assert_close(found: Any, wanted: Any) -> None:
    assert np.shape(found) == np.shape(wanted)
    assert np.abs(found - wanted).max() <= CLOSE * np.abs(wanted).max()


def assert_same(kind: str, path: Path, batches: tuple[int, ...] = (1, 3), **options: Any) -> None:
    """The ONNX graph at every batch and, at batch 1, the torch module and its exported program."""
    model = tensorflow_model.load(kind, path, options)
    proto, _ = tensorflow_onnx.load(kind, path, options)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_inputs()} == set(model.input_names)
    assert tuple(value.name for value in session.get_outputs()) == model.output_names
    for batch in batches:
        given = feeds(model, batch, 9)
        wanted = [value.numpy() for value in model.call(*map(tf.constant, given.values()))]
        for found, value in zip(session.run(None, given), wanted, strict=True):
            assert_close(found, value)
    loaded = onnx_program.build(proto, path, sequence=9)
    assert loaded.input_names == model.input_names
    assert loaded.output_names == model.output_names
    given = feeds(model, 1, 9)
    wanted = [value.numpy() for value in model.call(*map(tf.constant, given.values()))]
    tensors = tuple(torch.tensor(value) for value in given.values())
    program = torch.export.export(loaded.module, loaded.example).module()
    for found, value in zip(program(*tensors), wanted, strict=True):
        assert_close(found.numpy(), value)


@pytest.mark.parametrize("name", MODELS)
def test_a_keras_model_computes_the_same(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    varied(MODELS[name]()).save(tmp_path / "m.keras")
    assert_same("keras", tmp_path / "m.keras")


def test_the_digits_models_compute_the_same(digits: Path) -> None:
    assert_same("keras", digits / "digits.keras")
    assert_same("saved-model", digits / "digits_saved_model")


def test_torch_model_loads_both_kinds(digits: Path) -> None:
    results = []
    for kind, name in (("keras", "digits.keras"), ("saved-model", "digits_saved_model")):
        model = torch_model.load(kind, digits / name, {})
        assert model.input_names == ("image",)
        assert tuple(model.example[0].shape) == (1, 8, 8, 1)
        results.append(model.module(*model.example)[0].numpy())
    assert_close(results[0], results[1])


def saved(folder: Path, function: Callable[..., Any], *specs: Any) -> Path:
    """A SavedModel of one function of tensors, called as the arguments of its specs."""
    module = tf.Module()
    module.serve = tf.function(function, input_signature=specs, autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


@pytest.fixture(scope="module")
def two_signatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    class Module(tf.Module):
        def __init__(self) -> None:
            self.weight = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)).astype("float32"))

        @tf.function(
            autograph=False,
            input_signature=[tf.TensorSpec((None, 4), name="x"), tf.TensorSpec((None, 3), name="addend")],
        )
        def first(self, x: Any, addend: Any) -> dict[str, Any]:
            top = tf.reduce_max(x, -1, keepdims=True)
            return {"sum": x @ self.weight + addend, "product": top * addend}

        @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, 4), name="x")])
        def second(self, x: Any) -> dict[str, Any]:
            return {"top": tf.nn.top_k(tf.nn.softmax(x @ self.weight), 2)[0]}

    folder, module = tmp_path_factory.mktemp("signatures"), Module()
    tf.saved_model.save(module, str(folder), signatures={"first": module.first, "second": module.second})
    return folder


@pytest.mark.parametrize("signature", ["first", "second"])
def test_each_signature_computes_the_same(two_signatures: Path, signature: str) -> None:
    assert_same("saved-model", two_signatures, signature=signature)


def test_free_sizes_have_one_name_each(two_signatures: Path) -> None:
    proto, _ = tensorflow_onnx.load("saved-model", two_signatures, {"signature": "first"})
    free = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert free == {
        "addend": ["batch", 3],
        "x": ["batch", 4],
        "product": ["batch", 3],
        "sum": ["batch", 3],
    }


def test_two_processes_write_the_same_bytes(two_signatures: Path, tmp_path: Path) -> None:
    """tf2onnx keeps nodes in sets, whose order is another in every process."""
    gru = tmp_path / "gru.keras"
    chain(layers.Bidirectional(layers.GRU(4)), layers.LayerNormalization()).save(gru)
    code = (
        "import hashlib, sys; from pathlib import Path; from modelport.sources.loading import tensorflow_onnx as t\n"
        "for kind, path, name in (('keras', sys.argv[1], None), ('saved-model', sys.argv[2], 'first')):\n"
        "    model, _ = t.load(kind, Path(path), {'signature': name})\n"
        "    print('hash', hashlib.sha256(model.SerializeToString()).hexdigest())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code, str(gru), str(two_signatures)],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert found[0].count("hash") == 2
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["erfc", "expm1", "log1p"])
def test_operators_that_tf2onnx_lacks_are_made_of_others(name: str, tmp_path: Path) -> None:
    function = getattr(tf.math, name)
    path = saved(tmp_path / "m", lambda x: {"y": function(tf.abs(x))}, tf.TensorSpec((None, 4), name="x"))
    assert_same("saved-model", path)


def test_an_operator_without_onnx_form_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "m", lambda x: {"y": tf.math.lgamma(x)}, tf.TensorSpec((None, 4), name="x"))
    with pytest.raises(Unsupported, match="Lgamma") as caught:
        tensorflow_onnx.load("saved-model", path, {})
    assert str(path) in str(caught.value)


def test_text_is_refused_before_any_work(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "m",
        lambda text: {"length": tf.strings.length(text)},
        tf.TensorSpec((None,), tf.string, name="text"),
    )
    with pytest.raises(Unsupported, match="input text holds text"):
        modelport.check(path, target="server-cpu", quant="fp32")
    with pytest.raises(Unsupported, match="input text: holds text"):
        tensorflow_onnx.load("saved-model", path, {})


def test_an_operator_on_text_inside_is_named(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "m",
        lambda x: {"y": tf.strings.to_number(tf.strings.as_string(x))},
        tf.TensorSpec((None, 4), name="x"),
    )
    with pytest.raises(Unsupported, match=r"operator (AsString|StringToNumber)"):
        modelport.check(path, target="android", quant="fp32")


def test_an_error_that_tf2onnx_only_logs_is_raised(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translated = tensorflow_onnx._translated

    def broken(*arguments: Any) -> Any:
        logging.getLogger("tf2onnx.tfonnx").error("a rewriter failed\nat length")
        return translated(*arguments)

    monkeypatch.setattr(tensorflow_onnx, "_translated", broken)
    with pytest.raises(ConversionFailed, match=r"a rewriter failed$"):
        tensorflow_onnx.load("keras", digits / "digits.keras", {})


@pytest.mark.parametrize("target", ["server-cpu", "cloud-tpu"])
def test_without_tf2onnx_the_part_to_install_is_named_first(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else found(name))
    runtime = registry.find_target(target).runtime
    options = {"runtime_module": registry.runtime_module(runtime), "extra": target}
    job = Job((), "keras", "m.keras", target, runtime, "fp32", str(tmp_path), str(tmp_path), None, options)
    with pytest.raises(MissingExtra, match=r"modelport\[tensorflow\]"):
        requirements.check(job, lambda *_: None)
    with pytest.raises(MissingExtra, match=r"modelport\[tensorflow\]"):
        tensorflow_onnx.load("keras", Path("m.keras"), {})
    assert requirements.check(replace(job, source_kind="onnx"), lambda *_: None) == Outcome()
