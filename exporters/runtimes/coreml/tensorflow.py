"""A Keras archive or SavedModel as something that coremltools converts: one frozen graph of TensorFlow operators."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....targets.errors import MissingExtra, ModelportError, Unsupported
from ...job import Job, Port
from ...torch_nodes import first_line
from . import explain, quiet
from . import tensorflow_boundary as ports
from . import tensorflow_translations as translations
from .convertible import Convertible
from .options import COMPUTE_UNITS, Wanted
from .route import LABEL
from .tensorflow_boundary import Boundary
from .tensorflow_replay import HANDLED, Replay

GRAPH = "graph"
"""Scope of the model's own operators, so that none has the name of an output."""


def source(job: Job, wanted: Wanted) -> Convertible:
    """The job's Keras or SavedModel source as a graph that coremltools takes; see `convert.source`.

    Raises what the loader raises, MissingExtra without TensorFlow, UsageError for options that do not match
    the model, and Unsupported for operators and loops that have no form in Core ML.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtra(
            "a TensorFlow model is read with TensorFlow, which is not installed here",
            where=job.source_path,
            mend="pip install 'tensorflow>=2.21'",
        )
    from ....sources.loading import tensorflow as tensorflow_model

    with quiet.quietly():
        model = tensorflow_model.load(job.source_kind, Path(job.source_path), job.options)
        return from_tensorflow(model, wanted, ports.sizes(model, wanted, job), job.source_path)


def from_tensorflow(model: Any, wanted: Wanted, sizes: Mapping[str, ports.Sizes], path: str) -> Convertible:
    """A `TensorflowModel` as a Convertible; `sizes` by input name, `path` is for errors."""
    around = ports.described(model, wanted, sizes)
    frozen = _frozen(model, around, path)
    _refuse_unknown(frozen, path)
    road = _Road(frozen, around, wanted, path)
    built = road.rebuilt()
    used = [name in built.used for name in around.inputs]
    if not any(used):
        raise Unsupported("the outputs do not depend on any input", where=path)
    ignored = [name for name, read in zip(model.input_names, used, strict=True) if not read]
    notes = (f"Left out, since nothing reads them: {', '.join(ignored)}",) if ignored else ()
    return Convertible(
        build=lambda precision: (road.convert(built, precision), (built.sentence(),)),
        inputs=tuple(
            Port(name, own, ports.TO_NCHW if index == around.image else ())
            for index, (name, own) in enumerate(zip(model.input_names, around.inputs, strict=True))
            if used[index]
        ),
        outputs=tuple(map(Port, model.output_names, around.outputs)),
        notes=(f"Minimum deployment target {wanted.target}.", *notes, *model.notes),
        data=around.data(model, wanted),
    )


@dataclass(frozen=True)
class _Frozen:
    """A graph whose weights are constants, its library, and the names of its boundary's tensors."""

    nodes: Mapping[str, Any]
    library: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _frozen(model: Any, around: Boundary, path: str) -> _Frozen:
    """The model traced at the boundary's sizes and in its own dtypes, constants folded by TensorFlow."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def traced(*tensors: Any) -> list[Any]:
        return [tf.identity(value) for value in model.call(*tensors)]

    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in zip(around.shapes, model.dtypes, strict=True)]
    try:
        function = tf.function(traced, autograph=False).get_concrete_function(*specs)
    except ModelportError:
        raise
    except Exception as error:  # TensorFlow raises whatever a layer's own code met
        raise Unsupported(
            f"TensorFlow cannot trace it at {[tuple(shape) for shape in around.shapes]}: {first_line(error)}",
            where=path,
            mend="Ask for other sizes with --shapes",
        ) from error
    _refuse_state(function.graph, path)
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    graph = _folded(frozen.graph, frozen.inputs, frozen.outputs)
    return _Frozen(
        nodes={node.name: node for node in graph.node},
        library={function.signature.name: function for function in graph.library.function},
        inputs=tuple(tensor.name.partition(":")[0] for tensor in frozen.inputs[: len(specs)]),
        outputs=tuple(tensor.name for tensor in frozen.outputs),
    )


def _refuse_state(graph: Any, path: str) -> None:
    """Raise Unsupported where a call leaves something behind for the next one."""
    library = [node for function in graph.as_graph_def().library.function for node in function.node_def]
    for node in (*graph.as_graph_def().node, *library):
        if node.op.startswith("Assign") or node.op.startswith("ResourceScatter"):
            raise Unsupported(
                f"the model keeps state from one call to the next ({node.op})",
                where=f"{path}: operator {node.name}",
                mend="Save it without state: recurrent layers with stateful=False, and pass states as inputs",
            )


def _folded(graph: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """A FuncGraph as a GraphDef with its constants folded, as coremltools folds those of a function."""
    import tensorflow as tf
    from tensorflow.lite.python.util import get_grappler_config, run_graph_optimizations

    return run_graph_optimizations(
        graph.as_graph_def(add_shapes=True),
        [tensor for tensor in inputs if tensor.dtype != tf.resource],
        list(outputs),
        config=get_grappler_config(["constfold", "dependency", "debug_stripper"]),
        graph=graph,
    )


def _refuse_unknown(frozen: _Frozen, path: str) -> None:
    """Raise Unsupported for operators that neither coremltools nor we have a form of, naming all of them."""
    registry = translations.registry()
    library = [node for function in frozen.library.values() for node in function.node_def]
    unknown: dict[str, str] = {}
    for node in (*frozen.nodes.values(), *library):
        # A resource that is left is a table or a variable that is written; its reader is named as well.
        if node.op not in registry and node.op not in HANDLED and node.op not in ("NoOp", "Assert"):
            unknown.setdefault(node.op, node.name)
    if unknown:
        listed = [f"{kind} ({name})" for kind, name in sorted(unknown.items())]
        more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        raise Unsupported(
            f"Core ML has no form of {'; '.join(listed[:5])}{more}",
            where=path,
            mend="Leave these layers to the app",
        )


@dataclass(frozen=True)
class _Road:
    """A frozen graph on its way into a package."""

    frozen: _Frozen
    around: Boundary
    wanted: Wanted
    path: str

    def rebuilt(self) -> _Built:
        """The graph once more, with the package's boundary and without loops."""
        import tensorflow as tf

        replay = Replay(self.frozen.library)

        def traced(*tensors: Any) -> list[Any]:
            with tf.name_scope(GRAPH):
                given = dict(zip(self.frozen.inputs, self.around.entering(tensors), strict=True))
                results = self.around.leaving(replay.run(self.frozen.nodes, given, self.frozen.outputs))
            names = self.around.names
            return [tf.identity(value, name=name) for name, value in zip(names, results, strict=True)]

        try:
            function = tf.function(traced, autograph=False).get_concrete_function(*self.around.specs())
        except ModelportError as error:
            where = ": ".join(filter(None, (self.path, error.where)))
            raise type(error)(error.fact, where=where, mend=error.mend) from None
        # As a graph and not as a function, which coremltools would optimize until no output has its name.
        outputs = [function.graph.get_tensor_by_name(f"{name}:0") for name in self.around.names]
        graph = tf.compat.v1.graph_util.extract_sub_graph(
            _folded(function.graph, function.inputs, outputs), list(self.around.names)
        )
        return _Built(
            graph=graph,
            used=frozenset(node.name for node in graph.node if node.op == "Placeholder"),
            floats=tuple(output.dtype.is_floating for output in outputs),
            fused=tuple(replay.fused),
            unrolled=tuple(replay.unrolled),
        )

    def convert(self, built: _Built, precision: Any) -> Any:
        """The MLModel in this precision. Raises Unsupported where a translation of coremltools fails."""
        import coremltools as ct
        import numpy as np

        outputs = [
            ct.TensorType(name=name, dtype=np.float32 if real else np.int32)
            for name, real in zip(self.around.names, built.floats, strict=True)
        ]
        labels = None
        if self.wanted.labels:
            # coremltools cannot match descriptions of outputs with labels, which add two; it finds the outputs.
            labels = ct.ClassifierConfig(
                list(self.wanted.labels),
                predicted_feature_name=LABEL,
                predicted_probabilities_output=self.around.names[-1],
            )
        try:
            with quiet.quietly(), translations.registered():
                return ct.convert(
                    built.graph,
                    source="tensorflow",
                    convert_to="mlprogram",
                    inputs=self.around.input_types(built.used),
                    outputs=None if labels else outputs,
                    classifier_config=labels,
                    minimum_deployment_target=getattr(ct.target, self.wanted.target),
                    compute_precision=precision,
                    compute_units=getattr(ct.ComputeUnit, COMPUTE_UNITS[self.wanted.compute_units]),
                    skip_model_load=True,
                )
        except ModelportError:
            raise
        except Exception as error:  # coremltools raises whatever its translations met
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> ModelportError:
        node = _failing_node(error)
        if node is not None:
            return Unsupported(
                f"coremltools cannot translate {node.op} ({node.name}): {first_line(error)}",
                where=self.path,
                mend="Replace this operator in the model",
            )
        if "rank" in str(error):
            return Unsupported(first_line(error), where=self.path, mend="Use fewer axes in the model")
        return explain.failed(error, self.path, self.wanted.target)


@dataclass(frozen=True)
class _Built:
    """What coremltools is given, and what was done to it."""

    graph: Any
    """GraphDef."""
    used: frozenset[str]
    """Names of the inputs that something reads."""
    floats: tuple[bool, ...]
    """By output, whether it holds floats."""
    fused: tuple[str, ...]
    unrolled: tuple[str, ...]

    def sentence(self) -> str:
        """The road for the report."""
        import coremltools as ct
        import tensorflow as tf

        said = f"Converted by TensorFlow {tf.__version__} and coremltools {ct.__version__}"
        if self.fused:
            said += f"; recurrent layers recognised in loops: {', '.join(self.fused)}"
        if self.unrolled:
            said += f"; loops unrolled: {', '.join(self.unrolled)}"
        return f"{said}."


def _failing_node(error: BaseException) -> Any | None:
    """The TensorFlow node whose translation raised the error, found in its traceback."""
    found, trace = None, error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_name == "convert_graph" and "coremltools" in code.co_filename:
            found = trace.tb_frame.f_locals.get("node")
        trace = trace.tb_next
    return found
