"""The boundary of a LiteRT file: layout, names and order of inputs and outputs, the signature that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from litert_jobs import SOURCES, compare, export, images, make_job
from modelport.sources.loading.reference import load_reference
from modelport.targets.errors import UsageError
from modelport.verification import runners

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "layout", "order", "shape"),
    [
        ("torch-exported", "nhwc", (0, 2, 3, 1), (1, 8, 8, 1)),
        ("torch-exported", "nchw", (), (1, 1, 8, 8)),
        ("keras", "nchw", (0, 3, 1, 2), (1, 1, 8, 8)),
        ("keras", None, (), (1, 8, 8, 1)),
    ],
)
def test_the_layout_is_the_one_asked_for_and_is_said(
    digits: Path,
    tmp_path: Path,
    kind: str,
    layout: str | None,
    order: tuple[int, ...],
    shape: tuple[int, ...],
) -> None:
    job = make_job(tmp_path, kind, digits / SOURCES[kind], "fp32", layout=layout)
    outcome, artifact = export(job)
    from ai_edge_litert.interpreter import Interpreter

    (detail,) = Interpreter(model_path=str(artifact)).get_input_details()
    assert tuple(detail["shape"]) == shape
    assert outcome.inputs[0].permutation == order
    (figures,) = compare(job, outcome, images(digits, kind, "held_out", 20)).values()
    assert figures["sqnr_db"] > 100
    said = " ".join(outcome.notes)
    assert ("NHWC in the artifact" in said or "NCHW in the artifact" in said) == bool(order)


def test_several_inputs_and_outputs_keep_their_names_and_order(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    picture, extra = keras.Input((16, 16, 3), name="picture"), keras.Input((4,), name="extra")
    x = keras.layers.Conv2DTranspose(4, 3, strides=2, name="map")(keras.layers.DepthwiseConv2D(3)(picture))
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    joined = keras.layers.Concatenate()([pooled, keras.layers.Dense(4)(extra)])
    first = keras.layers.Dense(3, name="first")(joined)
    keras.Model({"picture": picture, "extra": extra}, [first, x]).save(tmp_path / "m.keras")
    rng = np.random.default_rng(0)
    data = {
        "picture": rng.standard_normal((32, 16, 16, 3)).astype(np.float32),
        "extra": rng.standard_normal((32, 4)).astype(np.float32),
    }
    job = make_job(tmp_path / "job", "keras", tmp_path / "m.keras", "int8", data, layout="nchw")
    outcome, _ = export(job)
    assert {port.source for port in outcome.inputs} == {"picture", "extra"}
    figures = compare(job, outcome, {name: values[:8] for name, values in data.items()})
    assert set(figures) == {"first", "map"}
    assert all(found["sqnr_db"] > 20 for found in figures.values())


def test_a_signature_is_chosen_by_name(tmp_path: Path) -> None:
    import tensorflow as tf

    class Twice(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def double(self, x: Any) -> Any:
            return {"y": 2 * x}

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def triple(self, x: Any) -> Any:
            return {"y": 3 * x}

    module = Twice()
    path = tmp_path / "twice"
    tf.saved_model.save(module, str(path), signatures={"double": module.double, "triple": module.triple})
    with pytest.raises(UsageError, match="double, triple"):
        load_reference("saved-model", path, {})
    with pytest.raises(UsageError, match="no signature 'half'"):
        load_reference("saved-model", path, {"signature": "half"})
    job = make_job(tmp_path / "job", "saved-model", path, "fp32", signature="triple")
    _, artifact = export(job)
    runner = runners.load(artifact, "tflite")
    assert runner is not None
    assert runner.run({"x": np.ones((1, 3), np.float32)})["y"] == pytest.approx(3)
