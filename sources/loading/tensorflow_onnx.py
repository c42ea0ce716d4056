"""A SavedModel or Keras archive as an ONNX graph: frozen by TensorFlow, translated by tf2onnx, named as the source.

tf2onnx takes both kinds by one road, keeps the batch free and writes few operators; docs/tensorflow.md says what was
weighed against it.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...targets.errors import ConversionFailed, MissingExtra, ModelportError, Unsupported
from . import onnx_order
from . import tensorflow as tensorflow_model

if TYPE_CHECKING:
    import onnx

KINDS = ("keras", "saved-model")
"""Kinds of source that start here."""

REQUIRES_FOR = dict.fromkeys(KINDS, ("tensorflow", ("tensorflow", "tf2onnx")))
"""The extra and the modules that a runtime needs for sources which start here, by kind."""

OPSET = 18
"""The newest that tf2onnx 1.17 writes."""


def load(kind: str, path: Path, options: Mapping[str, Any]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The validated source as an ONNX model with all weights inside, and notes about the way it came.

    Inputs and outputs keep the source's names, shapes and layouts; what the source leaves free stays free.
    `options["signature"]` is the SavedModel's signature, as in `tensorflow.load`. Raises what that raises,
    MissingExtra without TensorFlow or tf2onnx, and Unsupported naming the operators that have no ONNX form.
    """
    extra, modules = REQUIRES_FOR[kind]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(
                f"a TensorFlow model becomes a program with {module}, which is not installed here",
                where=str(path),
                mend=f"pip install 'modelport[{extra}]'",
            )
    model = tensorflow_model.load(kind, path, options)
    refuse_text(model, path)
    return to_onnx(model, path), model.notes


def refuse_text(model: tensorflow_model.TensorflowModel, path: Path) -> None:
    """Raise Unsupported where an input holds text: no target computes with it."""
    for name, dtype in zip(model.input_names, model.dtypes, strict=True):
        if dtype == "string":
            raise Unsupported(
                "holds text",
                where=f"{path}: input {name}",
                mend="Save the model behind its text layers, so that it takes numbers",
            )


def to_onnx(model: tensorflow_model.TensorflowModel, path: Path) -> onnx.ModelProto:
    """The loaded model as ONNX; `path` is for errors. Raises Unsupported or ConversionFailed."""
    graph, inputs, outputs = _frozen(model)
    renamed = {
        **dict(zip(inputs, model.input_names, strict=True)),
        **dict(zip(outputs, model.output_names, strict=True)),
    }
    with _log() as log:
        try:
            proto = _translated(graph, inputs, outputs, renamed)
        except ModelportError:
            raise
        except Exception as error:  # tf2onnx raises whatever its own code met
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ConversionFailed(
                f"tf2onnx: {lines[0] if lines else type(error).__name__}", where=str(path)
            ) from error
    lacking = _lacking(proto.graph)
    if lacking:
        shown = ", ".join(f"{op} (in {name})" for op, name in sorted(lacking.items())[:4])
        raise Unsupported(
            f"no ONNX form for the TensorFlow operator {shown}",
            where=str(path),
            mend="Leave that part out of the model, or compute it with other operators",
        )
    if log.records:
        raise ConversionFailed(f"tf2onnx: {log.records[0].getMessage().splitlines()[0]}", where=str(path))
    onnx_order.settle(proto)
    _name_free_axes(proto, model)
    return proto


def _frozen(model: tensorflow_model.TensorflowModel) -> tuple[Any, list[str], list[str]]:
    """The function as one GraphDef of constants, free sizes free, and the names of its inputs and outputs."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    specs = [
        tf.TensorSpec(shape, dtype, name=f"input_{index}")
        for index, (shape, dtype) in enumerate(zip(model.shapes, model.dtypes, strict=True))
    ]

    def traced(*tensors: Any) -> list[Any]:
        return [tf.identity(value) for value in model.call(*tensors)]

    function = tf.function(traced, autograph=False).get_concrete_function(*specs)
    # Loops stay functions: tf2onnx recognises recurrent layers and ONNX's Loop by them.
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    return (
        frozen.graph.as_graph_def(add_shapes=True),
        [tensor.name for tensor in frozen.inputs],
        [tensor.name for tensor in frozen.outputs],
    )


def _translated(
    graph: Any, inputs: list[str], outputs: list[str], renamed: Mapping[str, str]
) -> onnx.ModelProto:
    """The steps of `tf2onnx.convert.from_graph_def`, which goes on after errors and hides them."""
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, tfonnx

    with tf.device("/cpu:0"):
        with tf.Graph().as_default():
            tf.import_graph_def(graph, name="")
            folded = tf_loader.tf_optimize(inputs, outputs, graph)
        with tf.Graph().as_default() as whole:
            tf.import_graph_def(folded, name="")
            translated = tfonnx.process_tf_graph(
                whole,
                opset=OPSET,
                input_names=inputs,
                output_names=outputs,
                custom_op_handlers={op: (function, []) for op, function in MORE.items()},
                tensors_to_rename=dict(renamed),
            )
        proto: onnx.ModelProto = optimizer.optimize_graph(translated).make_model("model")
    return proto


class _Errors(logging.Handler):
    """Keeps what is logged as an error: tf2onnx reports a rewriter that fails nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _log() -> Iterator[_Errors]:
    """The errors that tf2onnx logs inside, with the rest of its log silenced."""
    logger, kept = logging.getLogger("tf2onnx"), _Errors()
    level, handlers, spreads = logger.level, logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [kept], False
    logger.setLevel(logging.ERROR)
    try:
        yield kept
    finally:
        logger.handlers, logger.propagate = handlers, spreads
        logger.setLevel(level)


def _lacking(graph: onnx.GraphProto) -> dict[str, str]:
    """Operators that ONNX does not have, with the name of a node: tf2onnx leaves those that it does not know."""
    from onnx import defs

    found: dict[str, str] = {}
    for node in graph.node:
        if not defs.has(node.op_type, OPSET, node.domain):
            found[node.op_type] = node.name
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found.update(_lacking(inner))
    return found


def _name_free_axes(proto: onnx.ModelProto, model: tensorflow_model.TensorflowModel) -> None:
    """Free sizes of the inputs by one name each; an output's first one is the batch where the inputs have one."""
    for value, shape in zip(proto.graph.input, model.shapes, strict=True):
        for axis, (dim, size) in enumerate(zip(value.type.tensor_type.shape.dim, shape, strict=True)):
            if size is None:
                known = {0: "batch", 1: "sequence"} if len(shape) == 2 else {0: "batch"}
                dim.dim_param = known.get(axis, f"{value.name}_{axis}")
    batched = any(shape and shape[0] is None for shape in model.shapes)
    for value in proto.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = "batch" if batched and axis == 0 else f"{value.name}_{axis}"


# TensorFlow operators that tf2onnx 1.17 lacks, by those that it has: (graph, node, name, arguments) -> None.


def _erfc(graph: Any, node: Any, _name: str, _arguments: Sequence[Any]) -> None:
    """1 - erf(x)."""
    inner = graph.make_node("Erf", [node.input[0]])
    _becomes(graph, node, "Sub", [_one(graph, node), inner.output[0]])


def _expm1(graph: Any, node: Any, _name: str, _arguments: Sequence[Any]) -> None:
    """exp(x) - 1."""
    inner = graph.make_node("Exp", [node.input[0]])
    _becomes(graph, node, "Sub", [inner.output[0], _one(graph, node)])


def _log1p(graph: Any, node: Any, _name: str, _arguments: Sequence[Any]) -> None:
    """log(1 + x)."""
    inner = graph.make_node("Add", [node.input[0], _one(graph, node)])
    _becomes(graph, node, "Log", [inner.output[0]])


def _one(graph: Any, node: Any) -> str:
    from onnx import helper
    from tf2onnx import utils

    dtype = helper.tensor_dtype_to_np_dtype(graph.get_dtype(node.input[0]))
    name: str = graph.make_const(utils.make_name("one"), dtype.type(1).reshape(())).output[0]
    return name


def _becomes(graph: Any, node: Any, op: str, inputs: list[str]) -> None:
    node.type = op
    graph.replace_inputs(node, inputs)


MORE: Mapping[str, Callable[..., None]] = {"Erfc": _erfc, "Expm1": _expm1, "Log1p": _log1p}
