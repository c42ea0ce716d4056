"""A SavedModel or Keras archive as one TensorFlow function of tensors: what LiteRT converts and fidelity runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...targets.errors import SourceUnreadable, Unsupported, UsageError
from . import finite

if TYPE_CHECKING:
    import numpy as np

Reference = Callable[[Mapping[str, "np.ndarray[Any, Any]"]], dict[str, "np.ndarray[Any, Any]"]]

DEFAULT_SIGNATURE = "serving_default"
DEFAULT_SEQUENCE = 128


@dataclass(frozen=True)
class TensorflowModel:
    """A TensorFlow model ready for an exporter, every weight finite."""

    call: Callable[..., Sequence[Any]]
    """Takes positional tensors in the order of `input_names`, returns a list in that of `output_names`."""
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    """Shape of each input; None is a free size, as the batch mostly is."""
    dtypes: tuple[str, ...]
    keep: Any = None
    """What must stay alive for `call` to work: its variables."""
    notes: tuple[str, ...] = ()

    def concrete(self, sequence: int = DEFAULT_SEQUENCE, wrap: Callable[..., Any] | None = None) -> Any:
        """One ConcreteFunction with every size fixed: batch 1, and `sequence` for the length of token ids.

        `wrap(call)`, when given, stands between the function's inputs and the model (a change of layout);
        it may be a function of tensors with shapes of its own, given by its attribute `shapes`.
        Raises Unsupported for another free size.
        """
        import tensorflow as tf

        shapes = [
            fixed_shape(name, shape, dtype, sequence)
            for name, shape, dtype in zip(self.input_names, self.shapes, self.dtypes, strict=True)
        ]
        call = self.call
        if wrap is not None:
            call, shapes = wrap(call, shapes)
        specs = [
            tf.TensorSpec(shape, dtype, name=f"input_{index}")
            for index, (shape, dtype) in enumerate(zip(shapes, self.dtypes, strict=True))
        ]

        def traced(*tensors: Any) -> list[Any]:
            return [tf.identity(value) for value in call(*tensors)]

        return tf.function(traced, autograph=False).get_concrete_function(*specs)


def fixed_shape(name: str, shape: Sequence[int | None], dtype: str, sequence: int) -> list[int]:
    """`shape` with batch 1, and `sequence` for axis 1 of integer ids; Unsupported for another free size."""
    ids = len(shape) == 2 and dtype.startswith("int")
    sizes = [1 if axis == 0 and size is None else size for axis, size in enumerate(shape)]
    if ids and sizes[1] is None:
        sizes[1] = sequence
    if any(size is None for size in sizes):
        raise Unsupported(
            f"its shape {tuple(shape)} has free sizes beside the batch",
            where=f"input {name}",
            mend="Save the model with a fixed input shape",
        )
    return [int(size) for size in sizes if size is not None]


def load(kind: str, path: Path, options: Mapping[str, Any]) -> TensorflowModel:
    """Load a source of kind "keras" or "saved-model" that passed its pre-flight validator.

    `options["signature"]` names the SavedModel's signature (default "serving_default", or the only one).
    Keras loads with safe_mode and without compiling. Raises SourceUnreadable for files that TensorFlow does
    not take and for weights that are NaN or Inf, UsageError for a signature that is not there.
    """
    # Another backend would load the same archive and could not be converted.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if kind == "keras":
        return _keras(path)
    if kind == "saved-model":
        return _saved_model(path, options)
    raise Unsupported(f"a source of kind {kind!r} is not a TensorFlow model", where=str(path))


def load_reference(kind: str, path: Path, options: Mapping[str, Any]) -> Reference:
    """The source in TensorFlow, in float32, as a function on NumPy arrays by input name."""
    import tensorflow as tf

    model = load(kind, path, options)
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in zip(model.shapes, model.dtypes, strict=True)]

    def computed(*tensors: Any) -> list[Any]:
        return list(model.call(*tensors))

    compiled = tf.function(computed, input_signature=specs, autograph=False)

    def run(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        tensors = [
            tf.constant(feeds[name].astype(dtype, copy=False))
            for name, dtype in zip(model.input_names, model.dtypes, strict=True)
        ]
        return {
            name: value.numpy() for name, value in zip(model.output_names, compiled(*tensors), strict=True)
        }

    return run


def _keras(path: Path) -> TensorflowModel:
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a layer's own code met
        raise SourceUnreadable(
            f"Keras {keras.__version__} cannot load it: {_first_line(error)}",
            where=str(path),
            mend="Save it again with model.save of this Keras version",
        ) from error
    if not getattr(model, "inputs", None):
        raise Unsupported(
            "the model was never built, so its input shape is unknown",
            where=str(path),
            mend="Call it once on an input, or give it an Input layer, and save it again",
        )
    _refuse_non_finite(((weight.path, weight.numpy()) for weight in model.weights), path)
    structure = model._inputs_struct if hasattr(model, "_inputs_struct") else model.inputs[0]

    def call(*tensors: Any) -> list[Any]:
        given = keras.tree.pack_sequence_as(structure, list(tensors))
        return list(keras.tree.flatten(model(given, training=False)))

    return TensorflowModel(
        call=call,
        input_names=_unique(tensor.name for tensor in model.inputs),
        output_names=_unique(_layer_name(tensor) for tensor in model.outputs),
        shapes=tuple(tuple(tensor.shape) for tensor in model.inputs),
        dtypes=tuple(str(tensor.dtype) for tensor in model.inputs),
        keep=model,
    )


def _first_line(error: Exception) -> str:
    """What an error says before it goes into detail; headings such as "Graph execution error:" say nothing."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.endswith(":")), type(error).__name__)[:400]


def _layer_name(tensor: Any) -> str:
    """Name of the layer that computes an output, as Keras names outputs in its own summaries."""
    history = getattr(tensor, "_keras_history", None)
    return str(history.operation.name if history is not None else tensor.name)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    taken: dict[str, int] = {}
    result = []
    for name in names:
        taken[name] = taken.get(name, -1) + 1
        result.append(f"{name}_{taken[name]}" if taken[name] else name)
    return tuple(result)


def _saved_model(path: Path, options: Mapping[str, Any]) -> TensorflowModel:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
    except Exception:  # what the object graph of another Keras raises; the graph itself may still be good
        return _first_generation(path, options)
    signatures = dict(loaded.signatures)
    key = choose_signature(tuple(signatures), options, path)
    signature = signatures[key]
    specs = signature.structured_input_signature[1]
    names = tuple(sorted(specs))  # TensorFlow gives them in another order each time
    _refuse_non_finite(_values(signature.variables), path)
    outputs = tuple(sorted(signature.structured_outputs))

    def call(*tensors: Any) -> list[Any]:
        results = signature(**dict(zip(names, tensors, strict=True)))
        return [results[name] for name in outputs]

    return TensorflowModel(
        call=call,
        input_names=names,
        output_names=outputs,
        shapes=tuple(_sizes(specs[name].shape) for name in names),
        dtypes=tuple(specs[name].dtype.name for name in names),
        keep=loaded,
    )


def choose_signature(known: tuple[str, ...], options: Mapping[str, Any], path: Path) -> str:
    """The signature that was asked for, "serving_default", or the only one; UsageError otherwise."""
    asked = options.get("signature")
    if asked:
        if asked in known:
            return str(asked)
        raise UsageError(
            f"there is no signature {asked!r}", where=str(path), mend=f"Known are {', '.join(sorted(known))}"
        )
    if DEFAULT_SIGNATURE in known:
        return DEFAULT_SIGNATURE
    if len(known) == 1:
        return known[0]
    if not known:
        raise SourceUnreadable(
            "it has no signature", where=str(path), mend="Save it with signatures=..., or with model.export"
        )
    raise UsageError(
        f"it has {len(known)} signatures and none is called {DEFAULT_SIGNATURE!r}",
        where=str(path),
        mend=f"Choose one with --signature: {', '.join(sorted(known))}",
    )


def _first_generation(path: Path, options: Mapping[str, Any]) -> TensorflowModel:
    """Load through the version 1 loader, which reads the graph and the variables but no object graph.

    Keras 2 saved its optimizer's state as slot variables of an object that TensorFlow 2.21 does not know;
    such models are common, and their graphs are whole. Variables become constants, and the graph is
    imported again with the sizes that the caller fixes.
    """
    import tensorflow as tf

    graph = tf.Graph()
    try:
        with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
            meta = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
            signatures = {
                key: value for key, value in meta.signature_def.items() if value.inputs and value.outputs
            }
            key = choose_signature(tuple(signatures), options, path)
            inputs, outputs = dict(signatures[key].inputs), dict(signatures[key].outputs)
            frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), [info.name.split(":")[0] for info in outputs.values()]
            )
    except UsageError:
        raise
    except Exception as error:  # both loaders gave up
        raise SourceUnreadable(
            f"TensorFlow {tf.__version__} cannot load it: {_first_line(error)}",
            where=str(path),
            mend="Save it again with this TensorFlow version",
        ) from error
    _refuse_non_finite(_constants(frozen), path)
    frozen = _inlined(
        frozen, [info.name for info in inputs.values()], [info.name for info in outputs.values()]
    )
    names = tuple(inputs)

    def call(*tensors: Any) -> list[Any]:
        fed = {inputs[name].name: tensor for name, tensor in zip(names, tensors, strict=True)}
        return list(
            tf.graph_util.import_graph_def(
                frozen, input_map=fed, return_elements=[info.name for info in outputs.values()], name=""
            )
        )

    return TensorflowModel(
        call=call,
        input_names=names,
        output_names=tuple(outputs),
        shapes=tuple(_sizes(tf.TensorShape(inputs[name].tensor_shape)) for name in names),
        dtypes=tuple(tf.dtypes.as_dtype(inputs[name].dtype).name for name in names),
        notes=(
            "The SavedModel's object graph is not one that this TensorFlow knows (optimizer state that Keras 2 "
            "saved, as a rule), so its graph and variables were read by the version 1 loader",
        ),
    )


def _inlined(graph: Any, inputs: list[str], outputs: list[str]) -> Any:
    """The frozen GraphDef without function calls: an import into another graph leaves functions behind."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    elements = wrapped.graph.as_graph_element
    pruned = wrapped.prune([elements(name) for name in inputs], [elements(name) for name in outputs])
    return convert_variables_to_constants_v2(pruned).graph.as_graph_def()


def _sizes(shape: Any) -> tuple[int | None, ...]:
    if shape.rank is None:
        raise Unsupported("an input has no rank", mend="Save the model with an input shape")
    return tuple(None if size is None else int(size) for size in shape.as_list())


def _values(variables: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    return ((variable.name, variable.numpy()) for variable in variables)


def _constants(graph: Any) -> Iterable[tuple[str, Any]]:
    """Constants that were variables: convert_variables_to_constants keeps the variable's name."""
    import tensorflow as tf

    for node in graph.node:
        if node.op == "Const" and node.attr["value"].tensor.tensor_content:
            yield node.name, tf.make_ndarray(node.attr["value"].tensor)


def _refuse_non_finite(weights: Iterable[tuple[str, Any]], path: Path) -> None:
    for name, value in weights:
        finite.refuse_non_finite(value, f"{path}: weight {name}")
