"""ModelFacts of a Keras archive: its config's layers, nested models included, with the shapes that it notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ...targets.facts import Dim, IoFact, ModelFacts, OpFact, PeakFact, TensorFact
from .. import flops, peaks
from .layers import cost
from .movement import UNKNOWN, Cost, Shape
from .weights import Tensors, model_weights

MAX_LAYERS = 100_000
MAX_RANK = 16
MODELS = ("Functional", "Sequential", "Model")

Key = tuple[str, int, int]
"""A tensor of a model: layer name, which call of the layer, which of its outputs (`keras_history`)."""


def facts_of(config: Mapping[str, Any], tensors: Tensors, name: str, sequence: int) -> ModelFacts:
    """The facts of a checked archive at batch 1."""
    weights = model_weights(tensors)
    inputs, outputs = _io(config)
    assumed, free = _assume(inputs, sequence)
    trace = _Trace(free)
    peak = trace.run(config, inputs)
    notes = []
    optimizer = [tensor for tensor in tensors if tensor.path.startswith("optimizer/")]
    if optimizer:
        total = sum(tensor.nbytes for tensor in optimizer)
        notes.append(
            f"{len(optimizer)} tensors of optimizer state ({total:,} bytes) do not count as weights."
        )
    if not trace.ops:
        notes.append("The layers' shapes are not in the config: operators are unknown.")
    return ModelFacts(
        kind="keras",
        name=name,
        architecture=str(config.get("class_name")),
        tensors=tuple(TensorFact(item.path, item.dtype, item.shape, item.nbytes) for item in weights),
        inputs=inputs,
        outputs=tuple(_with_shape(value, trace.results) for value in outputs),
        ops=tuple(trace.ops),
        peak_activations=peak,
        peak=trace.peak,
        assumed=assumed,
        notes=tuple(notes),
    )


def expected_weights(config: Mapping[str, Any]) -> int | None:
    """Number of weights of all layers, each counted once; None when one of them is unknown."""
    trace = _Trace(None)
    inputs, _ = _io(config)
    trace.run(config, inputs)
    counts = list(trace.weights.values())
    return None if not counts or None in counts else sum(count for count in counts if count is not None)


def layers_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layer entries of a model's config; empty for a subclassed model."""
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, Mapping) else None
    return [layer for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []


def layer_name(layer: Mapping[str, Any]) -> str:
    """The layer's name in its model."""
    inner = layer.get("config")
    name = layer.get("name") or (inner.get("name") if isinstance(inner, Mapping) else None)
    return name if isinstance(name, str) else str(layer.get("class_name"))


def _io(config: Mapping[str, Any]) -> tuple[tuple[IoFact, ...], tuple[IoFact, ...]]:
    """Inputs by their layers' names, outputs by the names of the layers that make them; shapes later."""
    layers = {layer_name(layer): layer for layer in layers_of(config)}
    inner = config["config"]
    if config.get("class_name") == "Sequential":
        entry = [name for name, layer in layers.items() if layer.get("class_name") == "InputLayer"][:1]
        return tuple(_input(name, layers[name]) for name in entry), tuple(
            IoFact(name, "float32", None) for name in list(layers)[-1:]
        )
    entry = [key[0] for key in history(inner.get("input_layers")) if key[0] in layers]
    made = [key[0] for key in history(inner.get("output_layers"))]
    return tuple(_input(name, layers[name]) for name in entry), tuple(
        IoFact(n, "float32", None) for n in made
    )


def _input(name: str, layer: Mapping[str, Any]) -> IoFact:
    config = layer.get("config")
    raw = config.get("batch_shape") if isinstance(config, Mapping) else None
    dtype = config.get("dtype") if isinstance(config, Mapping) else None
    shape: tuple[Dim, ...] | None = None
    if isinstance(raw, list):
        shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in raw)
    return IoFact(name, dtype if isinstance(dtype, str) else "float32", shape)


def history(value: Any) -> list[Key]:
    """`input_layers` and `output_layers`: one key, or a list or dict of them, nested at will."""
    if isinstance(value, Mapping):
        return [key for item in value.values() for key in history(item)]
    if not isinstance(value, list):
        return []
    if len(value) == 3 and isinstance(value[0], str) and all(isinstance(n, int) for n in value[1:]):
        return [(value[0], value[1], value[2])]
    return [key for item in value for key in history(item)]


def _assume(inputs: Sequence[IoFact], sequence: int) -> tuple[dict[str, int], int | None]:
    """Axis 0 is the batch, 1; a free axis 1 of rank 2 or 3 is a sequence; others cannot be told apart."""
    assumed: dict[str, int] = {}
    size: int | None = sequence
    for value in inputs:
        for axis, dim in enumerate(value.shape or ()):
            if dim is not None:
                continue
            if axis == 0:
                assumed[f"{value.name}[0]"] = 1
            elif axis == 1 and len(value.shape or ()) in (2, 3):
                assumed[f"{value.name}[1]"] = sequence
            else:
                size = None
    return assumed, size


def _with_shape(value: IoFact, results: Mapping[str, Shape | None]) -> IoFact:
    shape = results.get(value.name)
    return IoFact(value.name, value.dtype, None if shape is None else (None, *shape[1:]))


def tensors_in(value: Any) -> Iterator[tuple[Key, Any]]:
    """Every `__keras_tensor__` in a call's arguments, in order: its history and its raw shape."""
    if isinstance(value, list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        inner = value.get("config")
        if value.get("class_name") == "__keras_tensor__" and isinstance(inner, Mapping):
            keys = history(inner.get("keras_history"))
            if keys:
                yield keys[0], inner.get("shape")
        else:
            for item in value.values():
                yield from tensors_in(item)


_Value = tuple[str, Shape | None]
"""A value while tracing: a unique name, and its shape where it is known."""


@dataclass
class _Trace:
    """Follows a model's layers in the order of their calls, gathering operators, weights and liveness steps."""

    free: int | None
    ops: list[OpFact] = field(default_factory=list)
    steps: list[flops.Step] = field(default_factory=list)
    weights: dict[str, int | None] = field(default_factory=dict)
    results: dict[str, Shape | None] = field(default_factory=dict)
    """Shapes of the outermost model's outputs, by layer name."""
    complete: bool = True
    peak: PeakFact | None = None

    def run(self, config: Mapping[str, Any], inputs: Sequence[IoFact]) -> int | None:
        """Trace the model; the peak of live activation elements, None when a shape is unknown."""
        given = [(f"input {value.name}", self._filled(list(value.shape or ()))) for value in inputs]
        if not given or any(shape is None for _, shape in given):
            self.weights["model"] = None
            return None
        values = self._model(config, given, "", "")
        for value, (_, shape) in zip(_io(config)[1], values, strict=False):
            self.results[value.name] = shape
        if not self.complete:
            return None
        sizes = {name: prod(shape) for name, shape in given if shape is not None}
        outputs = [name for name, _ in values]
        self.peak = peaks.find(self.steps, sizes, outputs)
        return flops.liveness(self.steps, sizes, outputs)

    def _filled(self, raw: Any) -> Shape | None:
        if not isinstance(raw, list) or not 0 < len(raw) <= MAX_RANK:
            return None
        shape = []
        for axis, size in enumerate(raw):
            free = 1 if axis == 0 else self.free if axis == 1 and len(raw) in (2, 3) else None
            known = size if isinstance(size, int) and 0 <= size < 1 << 40 else free if size is None else None
            if known is None:
                return None
            shape.append(known)
        return tuple(shape)

    def _model(
        self, config: Mapping[str, Any], inputs: Sequence[_Value], prefix: str, owner: str
    ) -> list[_Value]:
        """Values that a model returns for the values that it is given.

        `prefix` begins the names of its operators in this call, `owner` those of its weights in all calls.
        """
        if config.get("class_name") != "Sequential":
            return self._functional(config, inputs, prefix, owner)
        value = inputs[0]
        layers = [layer for layer in layers_of(config) if layer.get("class_name") != "InputLayer"]
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            name = layer_name(layer)
            build = following.get("build_config") if following else None
            out = self._filled(build.get("input_shape")) if isinstance(build, Mapping) else None
            value = self._layer(layer, [value], out, prefix + name, owner + name)[0]
        return [value]

    def _functional(
        self, config: Mapping[str, Any], inputs: Sequence[_Value], prefix: str, owner: str
    ) -> list[_Value]:
        layers = {layer_name(layer): layer for layer in layers_of(config)}
        calls = {
            (name, at): list(tensors_in([call.get("args"), call.get("kwargs")]))
            for name, layer in layers.items()
            for at, call in enumerate(_calls(layer))
        }
        noted = {key: self._filled(shape) for taken in calls.values() for key, shape in taken}
        inner = config["config"]
        values: dict[Key, _Value] = dict(zip(history(inner.get("input_layers")), inputs, strict=False))
        for name, at in _in_order(calls, values):
            given = [values.get(key, (f"{prefix}{key[0]}", noted.get(key))) for key, _ in calls[name, at]]
            label = f"{prefix}{name}" + (f":{at}" if at else "")
            made = self._layer(layers[name], given, noted.get((name, at, 0)), label, f"{owner}{name}")
            for output, value in enumerate(made):
                values[name, at, output] = value
        wanted = history(inner.get("output_layers"))
        return [values.get(key, (f"{prefix}{key[0]}", noted.get(key))) for key in wanted]

    def _layer(
        self, layer: Mapping[str, Any], inputs: Sequence[_Value], out: Shape | None, label: str, owner: str
    ) -> list[_Value]:
        """One call of a layer: its values, with its operators and its weights noted."""
        kind = str(layer.get("class_name"))
        if kind in MODELS and layers_of(layer) and inputs:
            return self._model(layer, inputs, f"{label}/", f"{owner}/")
        config = layer.get("config")
        shapes = [shape for _, shape in inputs if shape is not None]
        found: Cost = UNKNOWN
        if len(shapes) == len(inputs) and isinstance(config, Mapping) and len(self.ops) < MAX_LAYERS:
            found = cost(kind, config, shapes, out)
        self.weights.setdefault(owner, found.weights)
        result = out or found.out
        touched = sum(prod(shape) for shape in shapes) + (prod(result) if result else 0)
        for part in found.parts:
            op = OpFact(label + part.suffix, kind, part.op_class, part.flops, found.weights or 0, touched)
            self.ops.append(op)
        self.complete = self.complete and result is not None
        sizes = {label: prod(result)} if result is not None else {}
        names = [name for name, _ in inputs]
        op_class = found.parts[0].op_class if found.parts else ""
        self.steps.append(flops.Step(names, sizes, found.view, label, kind, op_class))
        return [(label, result)]


def _calls(layer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = layer.get("inbound_nodes")
    return [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []


def _in_order(
    calls: Mapping[tuple[str, int], list[tuple[Key, Any]]], ready: Mapping[Key, Any]
) -> list[tuple[str, int]]:
    """Calls so that each stands after those whose tensors it takes; what a damaged config leaves comes last."""
    ordered: list[tuple[str, int]] = []
    done = {(key[0], key[1]) for key in ready}
    state: dict[tuple[str, int], bool] = {}
    for first in calls:
        waiting = [(first, False)]
        while waiting:
            call, opened = waiting.pop()
            if call in done or call not in calls:
                continue
            if opened:
                done.add(call)
                ordered.append(call)
            elif call not in state:
                state[call] = True
                waiting.append((call, True))
                waiting.extend(((key[0], key[1]), False) for key, _ in calls[call])
    return ordered
