"""Full-integer models with random weights, of the kinds that run on microcontrollers: for the planner and its judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from modelport.exporters.litert.micro_rounding import as_micro

SEED = 7
"""Of weights and of calibration data: together with the versions of TensorFlow and Keras it fixes the bytes."""

CALIBRATION = 4


def build(name: str, *, wide: bool = False) -> bytes:
    """The int8 .tflite of one of MODELS, with int8 inputs and outputs; `wide`: int16 activations, int8 weights."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    model = MODELS[name]()
    _awaken(model)
    return quantized(model, wide=wide)


def _awaken(model: Any) -> None:
    """Give an untrained model activations of the size that a trained one has, and answers that differ.

    Without it the values of a deep network vanish, until scales are too small for the kernels' multipliers.
    """
    from keras import layers

    random = np.random.default_rng(SEED)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            # One pass in training mode then takes over the batch's own mean and variance.
            layer.momentum = 0.0
        elif isinstance(layer, layers.Dense):
            kernel, bias = layer.get_weights()
            layer.set_weights([2 * kernel, 0.1 * random.standard_normal(bias.shape)])
    batch = [random.standard_normal((16, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    model(batch if len(batch) > 1 else batch[0], training=True)


def quantized(model: Any, *, wide: bool = False) -> bytes:
    """A Keras model as a full-integer .tflite, calibrated on normally distributed inputs."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    shapes = [(1, *tensor.shape[1:]) for tensor in model.inputs]

    def samples() -> Any:
        random = np.random.default_rng(SEED)
        for _ in range(CALIBRATION):
            yield [random.standard_normal(shape).astype(np.float32) for shape in shapes]

    specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    call = tf.function(lambda *inputs: model(list(inputs) if len(inputs) > 1 else inputs[0], training=False))
    frozen = convert_variables_to_constants_v2(call.get_concrete_function(*specs))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    sets = tf.lite.OpsSet
    converter.target_spec.supported_ops = [
        sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        if wide
        else sets.TFLITE_BUILTINS_INT8
    ]
    converter.inference_input_type = converter.inference_output_type = tf.int16 if wide else tf.int8
    return bytes(converter.convert())


def _model(inputs: Any, outputs: Any) -> Any:
    import keras

    return keras.Model(inputs, outputs)


def _mobilenet_v2(alpha: float) -> Callable[[], Any]:
    def make() -> Any:
        import keras

        return keras.applications.MobileNetV2((96, 96, 3), alpha=alpha, weights=None, classes=10)

    return make


def _convolution(x: Any, channels: int, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> Any:
    from keras import layers

    x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.ReLU()(x) if relu else x


def _residual(x: Any, channels: int, stride: int) -> Any:
    from keras import layers

    y = _convolution(_convolution(x, channels, 3, stride), channels, relu=False)
    if stride > 1 or x.shape[-1] != channels:
        x = _convolution(x, channels, 1, stride, relu=False)
    return layers.ReLU()(layers.Add()([x, y]))


def _resnet(widths: tuple[int, ...], blocks: int, side: int) -> Callable[[], Any]:
    def make() -> Any:
        from keras import Input, layers

        inputs = Input((side, side, 3))
        x = _convolution(inputs, widths[0])
        for stage, width in enumerate(widths):
            for block in range(blocks):
                x = _residual(x, width, 2 if stage and not block else 1)
        x = layers.GlobalAveragePooling2D()(x)
        return _model(inputs, layers.Dense(10, "softmax")(x))

    return make


def _separable(x: Any, channels: int, stride: int = 1) -> Any:
    from keras import layers

    x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    return _convolution(x, channels, 1)


def _keyword_spotting() -> Any:
    """The shape of MLPerf Tiny's DS-CNN: 49 frames of 10 MFCCs, 12 words."""
    from keras import Input, layers

    inputs = Input((49, 10, 1))
    x = layers.ReLU()(layers.Conv2D(64, (10, 4), (2, 2), padding="same")(inputs))
    for _ in range(4):
        x = _separable(x, 64)
    x = layers.Flatten()(layers.AveragePooling2D((25, 5))(x))
    return _model(inputs, layers.Dense(12, "softmax")(x))


def _autoencoder() -> Any:
    """The shape of MLPerf Tiny's anomaly detection: 640 features through 8."""
    from keras import Input, layers

    inputs = x = Input((640,))
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = layers.ReLU()(layers.Dense(width)(x))
    return _model(inputs, layers.Dense(640)(x))


def _person_detection() -> Any:
    """The shape of TensorFlow Lite Micro's own example: MobileNet 0.25, one grey channel, 96 x 96."""
    from keras import Input, layers

    inputs = Input((96, 96, 1))
    x = _convolution(inputs, 8, 3, 2)
    strides = {16: 1, 32: 2, 64: 2, 128: 2, 256: 2}
    for width, again in ((16, 1), (32, 2), (64, 2), (128, 6), (256, 2)):
        for block in range(again):
            x = _separable(x, width, strides[width] if not block else 1)
    x = layers.AveragePooling2D(3)(x)
    x = layers.Softmax()(layers.Reshape((2,))(layers.Conv2D(2, 1)(x)))
    return _model(inputs, x)


def _digits() -> Any:
    from keras import Input, layers

    inputs = Input((8, 8, 1))
    x = layers.MaxPooling2D(2)(layers.Conv2D(32, 3, padding="same", activation="relu")(inputs))
    x = layers.Flatten()(layers.Conv2D(64, 3, padding="same", activation="relu")(x))
    return _model(inputs, layers.Dense(10)(layers.Dense(64, "relu")(x)))


def _branches() -> Any:
    """TRANSPOSE, PAD, MEAN, CONCATENATION, MUL, SUB, LOGISTIC, SOFTMAX in one graph with crossing lifetimes."""
    import keras
    from keras import Input, layers

    inputs = Input((24, 16, 4))
    turned = layers.Permute((2, 1, 3))(inputs)
    padded = layers.ZeroPadding2D(((4, 4), (0, 0)))(turned)
    left = _convolution(padded, 8)
    right = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(padded)
    joined = layers.Concatenate()([left, right, padded])
    gate = keras.ops.sigmoid(layers.Conv2D(16, 1)(joined))
    x = keras.ops.subtract(keras.ops.multiply(joined, gate), layers.Conv2D(16, 3, padding="same")(joined))
    return _model(inputs, layers.Softmax()(layers.Dense(6)(keras.ops.mean(x, axis=(1, 2)))))


def _unet() -> Any:
    """An encoder and decoder with TRANSPOSE_CONV: its int32 scratch buffer is larger than any tensor."""
    from keras import Input, layers

    inputs = Input((32, 32, 3))
    one = _convolution(inputs, 8)
    two = _convolution(one, 16, 3, 2)
    three = _convolution(two, 24, 3, 2)
    up = layers.Conv2DTranspose(16, 2, 2, padding="same", activation="relu")(three)
    up = _convolution(layers.Concatenate()([up, two]), 16)
    up = layers.Conv2DTranspose(8, 3, 2, padding="same")(up)
    return _model(inputs, layers.Conv2D(2, 1, activation="sigmoid")(layers.Add()([up, one])))


def _attention() -> Any:
    """BATCH_MATMUL with a copy of its right side in the tail, SOFTMAX over three axes, SQUEEZE and slices."""
    import keras
    from keras import Input, layers

    inputs = Input((16, 24))
    query, key, value = (layers.Dense(24)(inputs) for _ in range(3))
    scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 2, 1)))
    mixed = keras.ops.matmul(keras.ops.softmax(scores, axis=-1), value)
    x = layers.LeakyReLU(negative_slope=0.1)(layers.Dense(24)(mixed + inputs))
    return _model(inputs, [x[:, 4:12, :], layers.Dense(4)(x[:, 0, :])])


def _resized() -> Any:
    """Two inputs, RESIZE_BILINEAR, MAXIMUM, TANH, SPLIT and PACK."""
    import keras
    from keras import Input, layers

    one, two = Input((12, 12, 4)), Input((6, 6, 4))
    x = layers.Maximum()([one, layers.UpSampling2D(2, interpolation="bilinear")(two)])
    y = layers.UpSampling2D(2, interpolation="bilinear")(two)
    left, right = keras.ops.split(
        layers.Conv2D(8, 3, activation="tanh")(layers.Concatenate()([x, y])), 2, axis=-1
    )
    return _model([one, two], keras.ops.stack([left, right], axis=1))


MODELS: dict[str, Callable[[], Any]] = {
    "digits": _digits,
    "mobilenet_v2_035": _mobilenet_v2(0.35),
    "mobilenet_v2_050": _mobilenet_v2(0.5),
    "mobilenet_v2_075": _mobilenet_v2(0.75),
    "mobilenet_v2_100": _mobilenet_v2(1.0),
    "resnet_8": _resnet((16, 32, 64), 1, 32),
    "resnet_18": _resnet((64, 128, 256, 512), 2, 32),
    "keyword_spotting": _keyword_spotting,
    "autoencoder": _autoencoder,
    "person_detection": _person_detection,
    "branches": _branches,
    "unet": _unet,
    "attention": _attention,
    "resized": _resized,
}
"""By name, a function that makes the Keras model."""


def ports(data: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs and outputs of a .tflite in the order of its subgraph, as LiteRT describes them."""
    interpreter = _interpreter(data)
    return list(interpreter.get_input_details()), list(interpreter.get_output_details())


def random_inputs(data: bytes, count: int) -> list[list[np.ndarray]]:
    """`count` samples of uniformly random integers for each input of a .tflite."""
    random = np.random.default_rng(SEED)
    inputs, _ = ports(data)
    found = []
    for _ in range(count):
        sample = []
        for port in inputs:
            if port["dtype"] == np.float32:
                sample.append(random.standard_normal(port["shape"]).astype(np.float32))
            else:
                limits = np.iinfo(port["dtype"])
                sample.append(random.integers(limits.min, limits.max + 1, port["shape"], port["dtype"]))
        found.append(sample)
    return found


def reference_outputs(
    data: bytes, samples: list[list[np.ndarray]], *, micro: bool = True
) -> list[list[np.ndarray]]:
    """What LiteRT's reference kernels compute for each sample; with `micro` rounding as TensorFlow Lite Micro does."""
    interpreter = _interpreter(as_micro(data) if micro else data)
    interpreter.allocate_tensors()
    found = []
    for sample in samples:
        for port, value in zip(interpreter.get_input_details(), sample, strict=True):
            interpreter.set_tensor(port["index"], value)
        interpreter.invoke()
        found.append([interpreter.get_tensor(port["index"]) for port in interpreter.get_output_details()])
    return found


def _interpreter(data: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    return Interpreter(
        model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1
    )
