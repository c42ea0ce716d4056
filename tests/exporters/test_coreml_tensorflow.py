"""Keras archives and SavedModels as Core ML packages: what is computed, names, layouts, options, refusals, bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")
tf = pytest.importorskip("tensorflow")

from coreml_tensorflow import exported, function, job  # noqa: E402
from modelport.exporters.job import Port  # noqa: E402
from modelport.exporters.runtimes.coreml import tensorflow as road  # noqa: E402
from modelport.exporters.runtimes.coreml import tensorflow_translations as translations  # noqa: E402
from modelport.exporters.runtimes.coreml.options import read  # noqa: E402
from modelport.mil.package import open_package  # noqa: E402
from modelport.targets.errors import Unsupported, UsageError  # noqa: E402

pytestmark = pytest.mark.slow

EXACT = 1e-5
"""Largest relative error of a float32 package."""


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A functional model of a picture and four facts, with two named outputs; names that Core ML has not."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    picture, facts = keras.Input((8, 8, 3), name="picture"), keras.Input((4,), name="some-facts")
    x = layers.Rescaling(1 / 127.5, offset=-1)(picture)
    x = layers.DepthwiseConv2D(3, padding="same")(layers.Conv2D(6, 3, strides=2, padding="same")(x))
    x = layers.Flatten()(layers.LayerNormalization()(x))
    x = layers.Concatenate()([x, layers.Dense(4, activation="gelu")(facts)])
    outputs = {"score": layers.Dense(10, name="score")(x), "kind": layers.Dense(3, name="kind")(x)}
    path = tmp_path_factory.mktemp("keras") / "two.keras"
    keras.Model([picture, facts], outputs).save(path)
    return path


@pytest.mark.parametrize("name", ["digits.keras", "digits_saved_model"])
def test_digits_compute_the_same_in_their_own_layout(digits: Path, tmp_path: Path, name: str) -> None:
    made = exported(tmp_path, digits / name)
    assert made.error < EXACT
    assert made.outcome.inputs == (Port("image", "image"),)
    assert open_package(made.path).inputs[0].shape == (1, 8, 8, 1)
    assert "TensorFlow" in made.outcome.notes[0]


def test_half_precision_keeps_fifty_decibels(digits: Path, tmp_path: Path) -> None:
    assert exported(tmp_path, digits / "digits.keras", "fp16").error < 10 ** (-50 / 20)


def test_several_inputs_and_outputs_keep_their_names_and_values(two_inputs: Path, tmp_path: Path) -> None:
    made = exported(tmp_path, two_inputs)
    assert made.error < EXACT
    assert made.outcome.inputs == (Port("picture", "picture"), Port("some-facts", "some_facts"))
    assert {port.artifact for port in made.outcome.outputs} == {"score", "kind"}
    assert {feature.name for feature in open_package(made.path).outputs} == {"score", "kind"}


def test_an_image_input_takes_pixels_with_channels_first(two_inputs: Path, tmp_path: Path) -> None:
    from modelport.exporters.runtimes import coreml

    work = job(tmp_path, two_inputs, image_input="scale=0.5,bias=1:2:3")
    outcome = coreml.export(work, lambda stage, done, total: None)
    assert outcome.inputs[0].permutation == (0, 3, 1, 2)
    opened = open_package(Path(work.staging) / "model.mlpackage")
    image = next(feature for feature in opened.inputs if feature.name == "picture")
    assert image.kind == "image"
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.float32)
    facts = np.ones((1, 4), np.float32)
    from modelport.mil.evaluate import Evaluator
    from modelport.sources.loading.reference import load_reference

    scaled = pixels * 0.5 + np.array([1, 2, 3], np.float32)
    wanted = load_reference("keras", two_inputs, {})({"picture": scaled, "some-facts": facts})
    given = Evaluator(opened.program, rounding=True).run(
        {"picture": pixels.transpose(0, 3, 1, 2), "some_facts": facts}
    )
    assert np.allclose(given["score"], wanted["score"], atol=1e-4)


def test_labels_add_probabilities(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(f"digit {index}" for index in range(10)))
    work = job(tmp_path / "job", digits / "digits.keras", labels=str(tmp_path / "labels.txt"))
    source = road.source(work, read(work.options, "fp32"))
    import coremltools as ct

    model, _ = source.build(ct.precision.FLOAT32)
    assert {"logits", "classLabel"} <= {output.name for output in model.get_spec().description.output}


def test_labels_of_another_number_are_refused(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("one\ntwo")
    work = job(tmp_path / "job", digits / "digits.keras", labels=str(tmp_path / "labels.txt"))
    with pytest.raises(UsageError, match="2 labels do not match"):
        road.source(work, read(work.options, "fp32"))


def test_free_sizes_become_a_range(tmp_path: Path) -> None:
    import keras
    from keras import layers

    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    keras.Model(image, layers.GlobalAveragePooling2D()(x)).save(tmp_path / "free.keras")
    with pytest.raises(Unsupported, match="free sizes"):
        exported(tmp_path / "without", tmp_path / "free.keras")
    made = exported(tmp_path / "with", tmp_path / "free.keras", shapes="image=1x16..64x16x3")
    assert made.error < EXACT
    fixed = exported(tmp_path / "fixed", tmp_path / "free.keras", shapes="image=1x24x16x3")
    assert open_package(fixed.path).inputs[0].shape == (1, 24, 16, 3)


def test_a_size_that_the_model_does_not_have_is_refused(digits: Path, tmp_path: Path) -> None:
    work = job(tmp_path, digits / "digits.keras", shapes="image=1x9x8x1")
    with pytest.raises(UsageError, match="axis 1 of the model is 8"):
        road.source(work, read(work.options, "fp32"))


OPERATORS: dict[str, tuple[Callable[..., Any], tuple[int, ...], str]] = {
    "erfc": (lambda x: tf.nn.gelu(x), (1, 6), "float32"),
    "expm1": (lambda x: tf.raw_ops.Expm1(x=x), (1, 6), "float32"),
    "isnan": (lambda x: tf.math.is_nan(tf.math.log(x)), (1, 8), "float32"),
    "isinf": (lambda x: tf.math.is_inf(1 / tf.nn.relu(x)), (1, 8), "float32"),
    "bucketize": (lambda x: tf.raw_ops.Bucketize(input=x, boundaries=[-1.0, 0.0, 1.0]), (2, 4), "float32"),
    "roll": (lambda x: tf.roll(x, [2, -1], [1, 2]), (1, 5, 4), "float32"),
    "reflect": (lambda x: tf.pad(x, [[0, 0], [2, 1], [1, 2]], "REFLECT"), (1, 5, 4), "float32"),
    "symmetric": (lambda x: tf.pad(x, [[0, 0], [2, 1], [1, 2]], "SYMMETRIC"), (1, 5, 4), "float32"),
    "modulo of one": (lambda x: tf.math.floormod(x, tf.constant(1.0)), (1, 8), "float32"),
    "floor by one": (lambda x: tf.math.floordiv(x, tf.constant(1.0)), (1, 8), "float32"),
    "reciprocal": (lambda x: tf.math.reciprocal(x / 100), (1, 8), "float32"),
    "division by zero": (lambda x: tf.math.divide_no_nan(x, tf.nn.relu(x)), (1, 8), "float32"),
    "numbers by a condition": (lambda x: tf.where(x > 0, 1.0, -1.0), (1, 8), "float32"),
    "a condition on all": (
        lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2, lambda: x - 1), (1, 8), "float32",
    ),
    "to bool": (lambda x: tf.cast(tf.round(x), tf.bool), (1, 8), "float32"),
    "pixels": (lambda x: tf.cast(x, tf.float32) / 255, (1, 4, 4, 3), "uint8"),
    "wide": (lambda x: x + tf.constant(1, tf.int64), (1, 4), "int64"),
    "an input that is an output": (lambda x: [x, x + 1], (1, 4), "float32"),
    "one output twice": (lambda x: [y := x * 2, y], (1, 4), "float32"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_that_coremltools_lacks_or_gets_wrong_compute_the_same(tmp_path: Path, name: str) -> None:
    call, shape, dtype = OPERATORS[name]
    assert function(tmp_path, call, shape, dtype=dtype).error < EXACT


def test_the_largest_of_zeros_of_either_sign_is_the_first(tmp_path: Path) -> None:
    import keras

    made = function(tmp_path, lambda x: keras.ops.argmax(keras.ops.relu(x), axis=-1), (3, 5))
    assert made.error == 0


def test_an_input_that_nothing_reads_is_left_out_and_said(tmp_path: Path) -> None:
    made = function(tmp_path, lambda x, unread: x + 1, (1, 3), (1, 4))
    assert [port.source for port in made.outcome.inputs] == ["x0"]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "table": (lambda: _layer("IntegerLookup", (4,), "int64", vocabulary=[5, 7]), "LookupTableFindV2"),
    "hashing": (lambda: _layer("Hashing", (4,), "int64", num_bins=3), "AsString"),
    "state": (lambda: _stateful(), "keeps state"),
}


def _layer(kind: str, shape: tuple[int, ...], dtype: str, **config: Any) -> Any:
    import keras

    given = keras.Input(shape, dtype=dtype)
    return keras.Model(given, getattr(keras.layers, kind)(**config)(given))


def _stateful() -> Any:
    import keras

    given = keras.Input((3, 2), batch_size=1)
    return keras.Model(given, keras.layers.LSTM(2, stateful=True)(given))


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_refused_by_one_clear_error(tmp_path: Path, name: str) -> None:
    make, text = REFUSED[name]
    path = tmp_path / "model.keras"
    make().save(path)
    work = job(tmp_path / "job", path)
    with pytest.raises(Unsupported, match=text) as caught:
        road.source(work, read(work.options, "fp32"))
    assert str(path) in caught.value.where
    assert caught.value.mend


def test_an_output_that_holds_no_real_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="do not hold complex64"):
        function(tmp_path, lambda x: tf.complex(x, x), (1, 3))


def test_the_signature_that_is_asked_for_is_converted(tmp_path: Path) -> None:
    class Two(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def double(self, x: Any) -> Any:
            return {"twice": x * 2}

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def add(self, x: Any) -> Any:
            return {"more": x + 1}

    module = Two()
    path = tmp_path / "two"
    tf.saved_model.save(module, str(path), signatures={"double": module.double, "add": module.add})
    made = exported(tmp_path / "job", path, signature="double")
    assert made.error < EXACT
    assert made.outcome.outputs == (Port("twice", "twice"),)


def test_the_same_source_gives_the_same_bytes(two_inputs: Path, tmp_path: Path) -> None:
    first, second = (exported(tmp_path / name, two_inputs, "fp16").path for name in ("a", "b"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files
    assert [(first / name).read_bytes() for name in files] == [(second / name).read_bytes() for name in files]


def test_coremltools_table_is_put_back() -> None:
    before = dict(translations.registry())
    with translations.registered():
        assert translations.registry()["Cast"] is translations.cast
    assert translations.registry() == before
