"""ModelFacts of a SavedModel's signature: its functions are followed with the shapes that TensorFlow noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from ...targets.facts import DTYPE_BITS, IoFact, ModelFacts, OpFact, PeakFact, TensorFact
from .. import flops, peaks
from .costs import VIEWS, op_class, operations
from .graph import CALLS, SMALL, VARIABLES, Node, Program, Ref, Signature, reached, variables_of
from .variables import TF_DTYPES, Entry, read_shape

Shape = tuple[int, ...]

_PASSES = frozenset(
    (
        "Identity",
        "IdentityN",
        "ReadVariableOp",
        "StopGradient",
        "DisableCopyOnRead",
        "EnsureShape",
        "PreventGradient",
    )
)
_SILENT = frozenset(("NoOp", "Placeholder", "PlaceholderWithDefault", "Assert", "ControlTrigger"))


def facts_of(
    program: Program,
    signature: Signature,
    signature_name: str,
    name: str,
    entries: Mapping[str, Entry],
    sequence: int,
) -> ModelFacts:
    """The facts of one signature at batch 1."""
    nodes = reached(program, signature.output_refs)
    tensors = _variables(nodes) + _constants(nodes)
    assumed, free = _assume(signature.inputs, sequence)
    trace = _Trace(program, free)
    peak = trace.run(signature)
    notes = [f"Signature {signature_name!r} of {sorted(n for n in program.signatures if n[:2] != '__')}."]
    optimizer = [entry for key, entry in entries.items() if _is_optimizer(key)]
    if optimizer:
        total = sum(entry.size for entry in optimizer)
        notes.append(
            f"{len(optimizer)} tensors of optimizer state ({total:,} bytes) do not count as weights."
        )
    if free is None:
        notes.append("Free dimensions other than batch: operators' costs that depend on them are unknown.")
    return ModelFacts(
        kind="saved-model",
        name=name,
        architecture="SavedModel",
        tensors=tensors,
        inputs=signature.inputs,
        outputs=signature.outputs,
        ops=tuple(trace.ops),
        peak_activations=peak,
        peak=trace.peak,
        assumed=assumed,
        notes=tuple(notes),
    )


def _variables(nodes: Sequence[Node]) -> tuple[TensorFact, ...]:
    found: dict[str, TensorFact] = {}
    for node in variables_of(nodes):
        shape, dtype = node.shape(), node.dtype()
        if shape is None or any(size < 0 for size in shape) or not DTYPE_BITS.get(dtype):
            continue
        name = node.text("shared_name") or node.name
        found[node.name] = TensorFact(name, dtype, shape, int(prod(shape) * max(DTYPE_BITS[dtype], 8)) // 8)
    return tuple(sorted(found.values(), key=lambda tensor: tensor.name))


def _constants(nodes: Sequence[Node]) -> tuple[TensorFact, ...]:
    """Weights that were frozen into the graph: constants too large to be shapes or scalars."""
    found = []
    for node in nodes:
        tensor = node.constant() if node.op == "Const" else None
        if tensor is None:
            continue
        dtype, shape = TF_DTYPES.get(tensor.integer(1), ""), read_shape(tensor.message(2, "shape"))
        if shape is not None and prod(shape) > SMALL and DTYPE_BITS.get(dtype):
            nbytes = int(prod(shape) * max(DTYPE_BITS[dtype], 8)) // 8
            found.append(TensorFact(node.name, dtype, shape, nbytes))
    return tuple(found)


def _is_optimizer(key: str) -> bool:
    """Keys of optimizer state: Keras 2 and 3, tf.train, and TensorFlow 1's slots beside their variable."""
    slots = ("/Adam", "/Adam_1", "/Momentum", "/RMSProp", "/RMSProp_1", "/Adagrad", "/Ftrl", "/Ftrl_1")
    powers = ("beta1_power", "beta2_power")
    return ".OPTIMIZER_SLOT/" in key or key.startswith("optimizer/") or key.endswith(slots) or key in powers


def _assume(inputs: Sequence[IoFact], sequence: int) -> tuple[dict[str, int], int | None]:
    """Sizes of free dimensions: by "input[axis]", and the one that stands for those beyond the batch.

    Axis 0 is the batch, 1. A free axis 1 of an input of rank 2 or 3 is a sequence. The second value is None
    when other axes are free: the graph does not say which of its free dimensions is which.
    """
    assumed: dict[str, int] = {}
    size: int | None = 1
    for value in inputs:
        for axis, dim in enumerate(value.shape or ()):
            if dim is not None:
                continue
            if axis == 0:
                assumed[f"{value.name}[0]"] = 1
            elif axis == 1 and len(value.shape or ()) in (2, 3) and size is not None:
                size = assumed[f"{value.name}[1]"] = sequence
            else:
                size = None
    return assumed, size


@dataclass(frozen=True)
class _Value:
    """One value while tracing: a unique name, its shape, and the weight elements behind it."""

    name: str
    shape: Shape | None
    stored: int = 0


@dataclass
class _Trace:
    """Follows a signature through its functions, gathering operators and liveness steps."""

    program: Program
    free: int | None
    ops: list[OpFact] = field(default_factory=list)
    steps: list[flops.Step] = field(default_factory=list)
    complete: bool = True
    peak: PeakFact | None = None

    def run(self, signature: Signature) -> int | None:
        """Trace the signature; the peak of live activation elements, None when a shape is unknown."""
        fed: dict[Ref, _Value] = {}
        for io, ref in zip(signature.inputs, signature.input_refs, strict=True):
            sizes = None if io.shape is None else [dim if isinstance(dim, int) else -1 for dim in io.shape]
            shape = self._filled(sizes)
            fed[ref] = _Value(f"input {io.name}", shape)
        values = self._follow(self.program.nodes, signature.output_refs, fed, "")
        if not self.complete or any(value.shape is None for value in fed.values()):
            return None
        inputs = {value.name: prod(value.shape or ()) for value in fed.values()}
        outputs = [value.name for value in values]
        self.peak = peaks.find(self.steps, inputs, outputs)
        return flops.liveness(self.steps, inputs, outputs)

    def _filled(self, shape: Sequence[int] | None) -> Shape | None:
        """The shape with free sizes filled in; None when one of them cannot be known."""
        if shape is None:
            return None
        sizes = [
            1 if axis == 0 and size < 0 else self.free if size < 0 else size
            for axis, size in enumerate(shape)
        ]
        known = tuple(size for size in sizes if size is not None)
        return known if len(known) == len(sizes) else None

    def _follow(
        self, nodes: Sequence[Node], wanted: Sequence[Ref], known: dict[Ref, _Value], prefix: str
    ) -> list[_Value]:
        """Values of `wanted`, computing what they need in an order in which inputs come first."""
        by_name = {node.name: node for node in nodes}
        made: dict[str, list[_Value]] = {}
        waiting = [(ref.node, False) for ref in reversed(wanted)]
        opened: set[str] = set()
        while waiting:
            name, ready = waiting.pop()
            node = by_name.get(name)
            if node is None or name in made or Ref(name) in known:
                continue
            if ready:
                inputs = [self._value(ref, made, known) for ref in node.inputs]
                made[name] = self._node(node, inputs, prefix)
            elif name not in opened:
                opened.add(name)
                waiting.append((name, True))
                waiting.extend((ref.node, False) for ref in reversed(node.inputs))
        return [self._value(ref, made, known) for ref in wanted]

    def _value(self, ref: Ref, made: Mapping[str, list[_Value]], known: Mapping[Ref, _Value]) -> _Value:
        if ref in known:
            return known[ref]
        outputs = made.get(ref.node, [])
        return outputs[ref.output] if ref.output < len(outputs) else _Value(f"unknown {ref.node}", None)

    def _node(self, node: Node, inputs: list[_Value], prefix: str) -> list[_Value]:
        name = prefix + node.name
        function = self.program.functions.get(next(iter(node.functions), "") if node.op in CALLS else node.op)
        if function is not None:
            known = {Ref(arg): value for (arg, _), value in zip(function.arguments, inputs, strict=False)}
            return self._follow(function.nodes, function.results, known, f"{name}/")
        shapes = [self._filled(shape) for shape in node.output_shapes()] or [None]
        if node.op in VARIABLES:
            shape = node.shape()
            return [_Value(name, shape, prod(shape) if shape and min(shape) >= 0 else 1)]
        if node.op in _PASSES and inputs:
            return [_Value(inputs[0].name, inputs[0].shape or shapes[0], inputs[0].stored)]
        if node.op == "Const":
            shape = node.output_shapes()[0] if node.output_shapes() else None
            return [_Value(name, shape, max(1, prod(shape or ())))]
        if node.op in _SILENT:
            return [_Value(name, shape) for shape in shapes]
        if inputs and all(value.stored for value in inputs) and node.op not in ("ResourceGather", "GatherV2"):
            # Computed from weights alone: a converter folds it, and its result still is the weight.
            return [_Value(name, shape, max(value.stored for value in inputs)) for shape in shapes]
        return self._operator(node, name, inputs, shapes)

    def _operator(
        self, node: Node, name: str, inputs: list[_Value], shapes: list[Shape | None]
    ) -> list[_Value]:
        kind = op_class(node.op, [bool(value.stored) for value in inputs])
        activations = [prod(value.shape) for value in inputs if value.shape is not None and not value.stored]
        self.ops.append(
            OpFact(
                name=name,
                kind=node.op,
                op_class=kind,
                flops=operations(node, kind, [value.shape for value in inputs], shapes[0]),
                weights=sum(value.stored for value in inputs),
                activations=sum(activations) + sum(prod(shape) for shape in shapes if shape is not None),
            )
        )
        values = [_Value(f"{name}:{n}", shape) for n, shape in enumerate(shapes)]
        self.complete = self.complete and all(shape is not None for shape in shapes)
        sizes = {value.name: prod(value.shape) for value in values if value.shape is not None}
        names = [value.name for value in inputs]
        self.steps.append(flops.Step(names, sizes, node.op in VIEWS, name, node.op, kind))
        return values
