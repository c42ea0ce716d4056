"""From an ONNX graph to the steps that depend on its inputs: everything else is computed once, beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from ....targets.errors import ConversionFailed, ModelportError, Unsupported
from .call import Call, Operator, to_torch
from .operators import OPERATORS

Array = np.ndarray[Any, Any]

MAX_STEPS = 20_000
"""Nodes of a loop, unrolled, beyond which a program would be of no use."""


@dataclass(frozen=True)
class Slot:
    """A value that depends on the inputs, by its place among all of them."""

    number: int


@dataclass(frozen=True)
class Step:
    """One operator that must run: inputs are slots, known arrays, or None where left out."""

    function: Operator
    op: str
    inputs: tuple[Slot | Array | None, ...]
    attributes: Mapping[str, Any]
    opset: int
    where: str
    constants: Mapping[int, torch.Tensor]
    outputs: tuple[int | None, ...]
    """Slots of the results; None where nobody reads one, or where it is known."""


@dataclass
class Plan:
    """The steps of a graph in order, made by running it once on examples."""

    opset: int
    where: str
    steps: list[Step] = field(default_factory=list)
    slots: int = 0

    def run(self, graph: onnx.GraphProto, values: dict[str, Any], held: dict[int, Slot]) -> list[Any]:
        """Run a graph on `values` (name to array or tensor), recording what depends on tensors.

        `held` maps the identity of each tensor to its slot. Returns the outputs' values.
        """
        for node in graph.node:
            self._node(node, values, held)
        return [values[output.name] for output in graph.output]

    def _node(self, node: onnx.NodeProto, values: dict[str, Any], held: dict[int, Slot]) -> None:
        place = f"{self.where}: node {node.name or node.output[0]!r} ({node.op_type})"
        inputs = [values[name] if name else None for name in node.input]
        attributes = {a.name: attribute(a) for a in node.attribute}
        if node.op_type in ("If", "Loop", "Scan"):
            results = self._nested(node, inputs, attributes, values, held, place)
        elif not any(isinstance(value, torch.Tensor) for value in inputs) and node.op_type not in RANDOM:
            results = known(node, inputs, self.opset, place)
        else:
            results = self._step(node, inputs, attributes, held, place)
        for name, value in zip(node.output, results, strict=False):
            if name:
                values[name] = value

    def _step(
        self,
        node: onnx.NodeProto,
        inputs: list[Any],
        attributes: dict[str, Any],
        held: dict[int, Slot],
        place: str,
    ) -> Sequence[Any]:
        function = OPERATORS.get(node.op_type)
        if function is None or node.domain not in ("", "ai.onnx"):
            raise Unsupported(
                f"the operator {node.domain and node.domain + '.'}{node.op_type} is not covered", where=place
            )
        if len(self.steps) >= MAX_STEPS:
            raise Unsupported(f"more than {MAX_STEPS:,} operators once loops are unrolled", where=place)
        constants: dict[int, torch.Tensor] = {}
        call = Call(node.op_type, inputs, attributes, self.opset, len(node.output), place, constants)
        try:
            result = function(call)
        except ModelportError:
            raise
        except Exception as error:  # torch raises whatever does not go together
            raise ConversionFailed(f"{type(error).__name__}: {error}", where=place) from error
        results = list(result) if isinstance(result, tuple) else [result]
        slots: list[int | None] = []
        for index, value in enumerate(results):
            if isinstance(value, torch.Tensor):
                # A view of an input would share its identity with it: each result is a value of its own.
                results[index] = value = value.view_as(value) if id(value) in held else value
                held[id(value)] = Slot(self.slots)
                slots.append(self.slots)
                self.slots += 1
            else:
                slots.append(None)
        given = tuple(held[id(v)] if isinstance(v, torch.Tensor) else v for v in inputs)
        self.steps.append(
            Step(function, node.op_type, given, attributes, self.opset, place, constants, tuple(slots))
        )
        return results

    def _nested(
        self, node: onnx.NodeProto, inputs: list[Any], attributes: dict[str, Any], values: dict[str, Any],
        held: dict[int, Slot], place: str,
    ) -> Sequence[Any]:  # fmt: skip
        """A branch that is known, or a loop whose number of rounds is."""
        if node.op_type == "If":
            if not isinstance(inputs[0], np.ndarray):
                raise Unsupported("the condition depends on the model's inputs", where=place)
            branch = attributes["then_branch" if bool(inputs[0].reshape(-1)[0]) else "else_branch"]
            return self.run(branch, self._scope(branch, values), held)
        if node.op_type != "Loop" or not isinstance(inputs[0], np.ndarray):
            raise Unsupported("loops of an unknown number of rounds have no fixed program", where=place)
        body, rounds = attributes["body"], int(inputs[0].reshape(-1)[0])
        carried, scanned = inputs[2:], []
        condition: Any = inputs[1]
        for index in range(rounds):
            if condition is not None and not (
                isinstance(condition, np.ndarray) and bool(condition.reshape(-1)[0])
            ):
                if not isinstance(condition, np.ndarray):
                    raise Unsupported("the loop's condition depends on the model's inputs", where=place)
                break
            scope = self._scope(body, values)
            names = [value.name for value in body.input]
            scope.update(zip(names, [np.array(index), np.array(True), *carried], strict=True))
            condition, *rest = self.run(body, scope, held)
            carried, made = rest[: len(carried)], rest[len(carried) :]
            scanned.append(made)
        stacked = [
            self._stacked([made[i] for made in scanned], held, place)
            for i in range(len(scanned[0]) if scanned else 0)
        ]
        return [*carried, *stacked]

    def _scope(self, graph: onnx.GraphProto, values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, **{tensor.name: array_of(tensor) for tensor in graph.initializer}}

    def _stacked(self, made: list[Any], held: dict[int, Slot], place: str) -> Any:
        if not any(isinstance(value, torch.Tensor) for value in made):
            return np.stack(made)
        rows = []
        for index, value in enumerate(made):
            scope = {"value": value, "axes": np.array([0])}
            self._node(helper.make_node("Unsqueeze", ["value", "axes"], [f"row {index}"]), scope, held)
            rows.append(scope[f"row {index}"])
        scope = {f"row {index}": row for index, row in enumerate(rows)}
        self._node(helper.make_node("Concat", list(scope), ["stacked"], axis=0), scope, held)
        return scope["stacked"]


RANDOM = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
)
"""Operators whose result is not a function of their inputs."""


def attribute(raw: onnx.AttributeProto) -> Any:
    """A plain value: texts decoded, tensors as arrays, graphs as they are."""
    value = helper.get_attribute_value(raw)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if raw.type == onnx.AttributeProto.STRINGS:
        return [item.decode("utf-8", "replace") for item in value]
    if raw.type == onnx.AttributeProto.TENSOR:
        return array_of(value)
    return list(value) if raw.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


def array_of(tensor: onnx.TensorProto, folder: Path | None = None) -> Array:
    """A tensor's values; external data is mapped, not read."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL and folder is not None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        count = int(np.prod(tensor.dims)) if tensor.dims else 1
        mapped = np.memmap(
            folder / entries["location"], dtype, "r", int(entries.get("offset", 0)), (count,)
        ) if count else np.zeros(0, dtype)  # fmt: skip
        return mapped.reshape(tuple(tensor.dims))
    return np.asarray(numpy_helper.to_array(tensor))


def known(node: onnx.NodeProto, inputs: list[Any], opset: int, place: str) -> Sequence[Any]:
    """The results of a node whose inputs are all known, by onnx's own reference implementation."""
    from onnx.reference import ReferenceEvaluator

    if node.op_type in OPERATORS and node.op_type not in ("Constant",) and not _odd(inputs):
        attributes = {a.name: attribute(a) for a in node.attribute}
        result = OPERATORS[node.op_type](
            Call(node.op_type, inputs, attributes, opset, len(node.output), place)
        )
        found = result if isinstance(result, tuple) else (result,)
        return [value.numpy() if isinstance(value, torch.Tensor) else value for value in found]
    names = [name for name in node.input if name]
    graph = helper.make_graph(
        [node], "one", [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names)],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        evaluator = ReferenceEvaluator(model)
        feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        found = iter(evaluator.run(None, feeds))
    except Exception as error:  # the reference raises errors of its own many classes
        raise Unsupported(f"{node.op_type} cannot be computed beforehand: {error}", where=place) from error
    return [next(found) if name else None for name in node.output]


def _odd(inputs: list[Any]) -> bool:
    """Whether torch lacks a dtype among the inputs."""
    kinds = ("uint16", "uint32", "uint64", "object", "bfloat16")
    return any(isinstance(v, np.ndarray) and (v.dtype.name in kinds or v.dtype.kind in "USV") for v in inputs)


class Program(torch.nn.Module):
    """The recorded steps on tensors; known inputs are buffers."""

    def __init__(self, plan: Plan, inputs: Sequence[Slot], outputs: Sequence[Slot | Array]) -> None:
        super().__init__()
        self._steps, self._inputs, self._outputs = plan.steps, tuple(inputs), tuple(outputs)
        self._names: list[dict[int, str]] = []
        for number, step in enumerate(plan.steps):
            names = {}
            for index, tensor in step.constants.items():
                names[index] = f"constant_{number}_{index}"
                self.register_buffer(names[index], tensor)
            self._names.append(names)
        for index, output in enumerate(self._outputs):
            if isinstance(output, np.ndarray):
                self.register_buffer(f"output_{index}", to_torch(output))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The graph's outputs, in its order."""
        values: dict[int, torch.Tensor] = {
            slot.number: tensor for slot, tensor in zip(self._inputs, tensors, strict=True)
        }
        for step, names in zip(self._steps, self._names, strict=True):
            given = [values[v.number] if isinstance(v, Slot) else v for v in step.inputs]
            constants = {index: getattr(self, name) for index, name in names.items()}
            result = step.function(
                Call(step.op, given, step.attributes, step.opset, len(step.outputs), step.where, constants)
            )
            results = result if isinstance(result, tuple) else (result,)
            for slot, value in zip(step.outputs, results, strict=True):
                if slot is not None:
                    values[slot] = value
        return tuple(
            values[output.number] if isinstance(output, Slot) else getattr(self, f"output_{index}")
            for index, output in enumerate(self._outputs)
        )
