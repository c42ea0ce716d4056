"""Loops of TensorFlow on the way to Core ML: recurrent layers recognised, others unrolled, the rest refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("coremltools")
tf = pytest.importorskip("tensorflow")

from coreml_tensorflow import exported, function  # noqa: E402
from modelport.exporters.runtimes.coreml.passes.recurrent import Layer  # noqa: E402
from modelport.exporters.runtimes.coreml.tensorflow_recurrent import formula  # noqa: E402
from modelport.targets.errors import Unsupported  # noqa: E402

pytestmark = pytest.mark.slow

EXACT = 1e-5


def saved(
    path: Path, layers: Callable[[Any], Any], shape: tuple[int, ...] = (7, 4), dtype: str = "float32"
) -> Path:
    """A Keras model of these layers on one input, with biases that are not 0."""
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input(shape, dtype=dtype, name="x")
    model = keras.Model(x, layers(x))
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "bias" in weight.path:
            weight.assign(random.normal(0, 0.3, weight.shape))
    model.save(path)
    return path


def layer(kind: str, **config: Any) -> Callable[[Any], Any]:
    """One recurrent layer of five units."""
    import keras

    return lambda x: getattr(keras.layers, kind)(5, **config)(x)


def _both(x: Any) -> Any:
    import keras

    x = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))(x)
    return keras.layers.GRU(4, go_backwards=True)(x)


def _states(x: Any) -> Any:
    import keras

    sequence, hidden, cell = keras.layers.LSTM(4, return_sequences=True, return_state=True)(x)
    return [keras.layers.LSTM(4)(sequence, initial_state=[hidden, cell]), cell]


RECOGNISED: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "lstm": (layer("LSTM"), "lstm", "LSTM of 7 steps"),
    "lstm of every step": (layer("LSTM", return_sequences=True), "lstm", "LSTM of 7 steps"),
    "lstm without bias": (layer("LSTM", use_bias=False), "lstm", "LSTM of 7 steps"),
    "gru": (layer("GRU", return_sequences=True), "while_loop", "GRU of 7 steps"),
    "gru that resets before": (layer("GRU", reset_after=False), "gru", "GRU of 7 steps"),
    "simple": (layer("SimpleRNN"), "rnn", "RNN of 7 steps"),
    "both ways": (_both, "lstm", "LSTM of 7 steps, LSTM of 7 steps, GRU of 7 steps"),
    "states": (_states, "lstm", "LSTM of 7 steps, LSTM of 7 steps"),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_a_recurrent_layer_becomes_one_operator(tmp_path: Path, name: str) -> None:
    layers, kind, said = RECOGNISED[name]
    made = exported(tmp_path / "job", saved(tmp_path / "model.keras", layers))
    assert made.error < EXACT
    assert kind in made.operators
    assert said in made.outcome.notes[0]


def test_a_saved_model_holds_only_the_loop_and_is_recognised_too(tmp_path: Path) -> None:
    import keras

    model = keras.models.load_model(saved(tmp_path / "model.keras", layer("LSTM")))
    model.export(tmp_path / "exported", verbose=False)
    made = exported(tmp_path / "job", tmp_path / "exported")
    assert made.error < EXACT
    assert "lstm" in made.operators


def _masked(x: Any) -> Any:
    import keras

    return keras.layers.GRU(4, return_sequences=True)(keras.layers.Embedding(20, 3, mask_zero=True)(x))


ODD = {"activation": "relu", "recurrent_activation": "hard_sigmoid"}
UNROLLED: dict[str, tuple[Callable[[Any], Any], tuple[int, ...], str, str]] = {
    "other activations": (layer("LSTM", **ODD), (5, 4), "float32", "while (5 steps)"),
    "mask": (_masked, (6,), "int32", "while (6 steps)"),
}


@pytest.mark.parametrize("name", UNROLLED)
def test_another_loop_is_unrolled(tmp_path: Path, name: str) -> None:
    layers, shape, dtype, said = UNROLLED[name]
    made = exported(tmp_path / "job", saved(tmp_path / "model.keras", layers, shape, dtype), sequence=6)
    assert made.error < EXACT
    assert not {"lstm", "gru", "rnn", "while_loop"} & set(made.operators)
    assert said in made.outcome.notes[0]


def test_a_loop_of_plain_tensorflow_is_unrolled(tmp_path: Path) -> None:
    def powers(x: Any) -> Any:
        return tf.while_loop(
            lambda i, y: i < 4, lambda i, y: (i + 1, y * x + tf.cast(i, tf.float32)), (0, x)
        )[1]

    made = function(tmp_path, powers, (2, 3))
    assert made.error < EXACT
    assert made.operators.count("add") >= 3


def test_a_branch_on_a_constant_is_taken(tmp_path: Path) -> None:
    made = function(tmp_path, lambda x: tf.cond(tf.constant(True), lambda: x * 2, lambda: x * 3), (2, 3))
    assert made.error < EXACT
    assert "cond" not in made.operators


def test_a_loop_that_depends_on_the_input_is_refused(tmp_path: Path) -> None:
    def until(x: Any) -> Any:
        return tf.while_loop(lambda y: tf.reduce_sum(y) < 100.0, lambda y: y * 2, (x,))[0]

    with pytest.raises(Unsupported, match="how often the loop runs"):
        function(tmp_path, until, (2, 3))


def test_a_loop_that_is_too_long_is_refused(tmp_path: Path) -> None:
    def long(x: Any) -> Any:
        return tf.while_loop(lambda i, y: i < 600, lambda i, y: (i + 1, tf.sin(y)), (0, x))[1]

    with pytest.raises(Unsupported, match="more than 512 steps"):
        function(tmp_path, long, (2, 3))


def test_a_loop_that_only_looks_like_an_lstm_is_not_taken_for_one(tmp_path: Path) -> None:
    import keras

    class Leaking(keras.layers.LSTMCell):  # type: ignore[misc]
        def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
            output, (hidden, cell) = super().call(inputs, states, training=training)
            return output, [hidden, cell * 0.999]

    rnn = keras.layers.RNN(Leaking(4), return_sequences=True)
    rnn.build((1, 6, 3))
    made = function(tmp_path, rnn, (1, 6, 3))
    assert made.error < EXACT
    assert "lstm" not in made.operators


@given(
    st.sampled_from(["lstm", "gru", "rnn_tanh", "rnn_relu"]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_the_formulas_are_those_of_torch(kind: str, inputs: int, hidden: int, seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    cells = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}
    cell: Any = (
        cells[kind](inputs, hidden)
        if kind in cells
        else torch.nn.RNNCell(inputs, hidden, nonlinearity=kind.removeprefix("rnn_"))
    )
    x, states = torch.randn(2, inputs), [torch.randn(2, hidden) for _ in range(2 if kind == "lstm" else 1)]
    with torch.no_grad():
        wanted = cell(x, tuple(states) if kind == "lstm" else states[0])
    wanted = wanted if kind == "lstm" else (wanted,)
    arrays = [
        getattr(cell, name).detach().numpy() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    found = formula(kind, Layer(*arrays), x.numpy(), [state.numpy() for state in states])
    for have, want in zip(found, wanted, strict=True):
        assert np.allclose(have, want.numpy(), atol=1e-5)
