"""The .tflite runner and the count, against values worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters.litert.boundary import from_boundary, to_boundary
from modelport.targets.errors import ConversionFailed, UsageError
from modelport.verification import audit, runners


def detail(dtype: Any, scale: float, zero: int) -> dict[str, Any]:
    return {
        "name": "x",
        "dtype": dtype,
        "quantization_parameters": {"scales": np.float32([scale]), "zero_points": np.array([zero])},
    }


@given(
    scale=st.floats(1e-3, 10),
    zero=st.integers(-128, 127),
    numbers=st.lists(st.integers(-128, 127), min_size=1, max_size=20),
)
def test_integers_survive_the_way_out_and_in(scale: float, zero: int, numbers: list[int]) -> None:
    held = np.array(numbers, np.int8)
    boundary = detail(np.int8, scale, zero)
    assert np.array_equal(to_boundary(from_boundary(held, boundary), boundary), held)


def test_values_beyond_the_range_saturate_and_do_not_wrap() -> None:
    given_values = np.array([-1e9, 1e9], np.float32)
    assert to_boundary(given_values, detail(np.int8, 0.1, 5)).tolist() == [-128, 127]
    assert to_boundary(given_values, detail(np.uint8, 0.1, 5)).tolist() == [0, 255]


def test_an_id_that_int32_cannot_hold_is_refused() -> None:
    plain = {"name": "ids", "dtype": np.int32, "quantization_parameters": {"scales": [], "zero_points": []}}
    assert to_boundary(np.array([7], np.int64), plain).dtype == np.int32
    with pytest.raises(UsageError, match="ids"):
        to_boundary(np.array([2**40]), plain)


def test_a_file_that_is_no_model_is_one_clear_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"\x00" * 64)
    with pytest.raises(ConversionFailed, match=r"bad\.tflite"):
        audit.audit(bad, "tflite")
    with pytest.raises(ConversionFailed, match=r"bad\.tflite"):
        runners.load(bad, "tflite")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each multiplying layer, as a float .tflite file: shapes below are from its definition."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), batch_size=1, name="image")
    # The converter drops biases that are zero.
    bias = {"bias_initializer": "random_normal"}
    x = keras.layers.Conv2D(4, 3, padding="same", **bias)(image)  # 8·8·4 · 3·3·3 = 6912
    x = keras.layers.DepthwiseConv2D(3, padding="same", **bias)(x)  # 8·8·4 · 3·3 = 2304
    x = keras.layers.Conv2DTranspose(5, 2, strides=2, **bias)(x)  # 8·8·4 · 2·2·5 = 5120
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(6, use_bias=False, name="scores")(x)  # 5·6 = 30
    path = tmp_path_factory.mktemp("network") / "float.tflite"
    model = keras.Model(image, x)
    function = tf.function(lambda image: model(image)).get_concrete_function(
        tf.TensorSpec((1, 8, 8, 3), tf.float32, name="image")
    )
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    return path


MACS = 6912 + 2304 + 5120 + 30
WEIGHTS = 4 * 3 * 3 * 3 + 4 * 3 * 3 + 4 * 2 * 2 * 5 + 5 * 6
BIASES = 4 + 4 + 5


def quantized(network: Path, recipe: str) -> Path:
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    path = network.with_name(f"{recipe}.tflite")
    result = quantizer.Quantizer(str(network), getattr(recipes, recipe)()).quantize(
        enable_progress_report=False
    )
    path.write_bytes(bytes(result.quantized_model))
    return path


@pytest.mark.slow
def test_a_float_file_counts_as_worked_out_by_hand(network: Path) -> None:
    counted = audit.audit(network, "tflite")
    assert counted is not None
    assert counted.macs == {"float32": MACS}
    assert counted.weight_bytes == {"float32": 4 * (WEIGHTS + BIASES)}
    assert [op.split()[0] for op in counted.float_ops] == [
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "TRANSPOSE_CONV",
        "FULLY_CONNECTED",
    ]
    assert counted.file_bytes == network.stat().st_size


@pytest.mark.slow
def test_integer_weights_count_as_stored_and_their_kernels_as_they_compute(network: Path) -> None:
    dynamic = audit.audit(quantized(network, "dynamic_wi8_afp32"), "tflite")
    weight_only = audit.audit(quantized(network, "weight_only_wi8_afp32"), "tflite")
    assert dynamic is not None
    assert weight_only is not None
    assert dynamic.macs == {"int8": MACS}
    assert dynamic.float_ops == ()
    assert weight_only.macs == {"float32": MACS}
    for counted in (dynamic, weight_only):
        assert counted.weight_bytes == {"int8": WEIGHTS, "float32": 4 * BIASES}


@pytest.mark.slow
def test_the_runner_gives_what_the_source_gives(network: Path) -> None:
    runner = runners.load(network, "tflite")
    assert runner is not None
    assert runner.free_sequence is False
    (name,) = runner.inputs
    image = np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32)
    (first,) = runner.run({name: image}).values()
    assert first.shape == (1, 6)
    runner.invoke()
    (again,) = runner.run({name: image}).values()
    assert np.array_equal(first, again)
    with pytest.raises(UsageError, match="the file wants"):
        runner.run({name: image[0]})
    with pytest.raises(UsageError, match="got no value"):
        runner.run({})
