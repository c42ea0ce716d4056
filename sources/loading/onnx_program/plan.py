"""From an ONNX graph to the steps that depend on its inputs: everything else is computed once, beforehand.

The graph is run once on examples. A value that depends on the inputs is a tensor then, a known one an array;
branches that are known and loops whose rounds are become the steps that they take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from ....targets.errors import ConversionFailed, ModelportError, Unsupported
from .call import OTHERWISE, Call, Operator, Refused
from .expansion import expanded
from .known import RANDOM, Array, attribute, computed
from .nested import MAX_STEPS, NESTED
from .operators import DOMAINS, OPERATORS
from .sequences import SEQUENCES
from .stored import array_of

STRUCTURAL = {**NESTED, **SEQUENCES}
"""Operators that the plan itself runs, and no step."""


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
    """Known inputs that the operator takes as tensors, by position."""
    outputs: tuple[Slot | None, ...]
    """Slots of the results; None where a result is known."""


class Plan:
    """Records the steps of the graphs of one file while it runs them on examples."""

    def __init__(self, opset: int, path: Path) -> None:
        """Operators have the meaning of `opset`; `path` names the file, and external data lies beside it."""
        self.steps: list[Step] = []
        self._opset, self._path = opset, path
        # A tensor's hash is its identity, and a key stays alive: no later tensor can be taken for it.
        self._slots: dict[torch.Tensor, Slot] = {}

    def add(self, tensor: torch.Tensor) -> Slot:
        """A new slot, for a tensor that has none."""
        return self._slots.setdefault(tensor, Slot(len(self._slots)))

    def slot(self, value: Any) -> Any:
        """The slot of a tensor; what is known, or left out, as it is."""
        return self._slots[value] if isinstance(value, torch.Tensor) else value

    def run(
        self, graph: onnx.GraphProto, given: Mapping[str, Any], outer: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Run a graph on the values `given`, inside those of the graph around it; returns its outputs' values.

        Raises Unsupported or ConversionFailed, naming the node.
        """
        stored = {tensor.name: array_of(tensor, self._path.parent) for tensor in graph.initializer}
        values = {**(outer or {}), **stored, **given}
        for node in graph.node:
            self.node(node, values)
        return [values[output.name] for output in graph.output]

    def node(self, node: onnx.NodeProto, values: dict[str, Any]) -> None:
        """Run one node on `values`, by name, and put its results among them."""
        place = f"{self._path.name}: node {node.name or node.output[0]!r} ({node.op_type})"
        if (node.domain or "ai.onnx") != DOMAINS.get(node.op_type, "ai.onnx"):
            raise Unsupported(
                f"the operator {node.domain}.{node.op_type} is not covered", where=place, mend=OTHERWISE
            )
        early = next((name for name in node.input if name and name not in values), None)
        if early is not None:
            raise Unsupported(
                f"reads {early!r} before it is made", where=place, mend="Sort the graph's nodes"
            )
        inputs = [values[name] if name else None for name in node.input]
        attributes = {raw.name: attribute(raw, self._path.parent) for raw in node.attribute}
        call = Call(node.op_type, inputs, attributes, self._opset, len(node.output), place)
        try:
            if node.op_type in STRUCTURAL:
                results = STRUCTURAL[node.op_type](self, call, values)
            elif node.op_type in RANDOM or any(isinstance(value, torch.Tensor) for value in inputs):
                results = self._covered(node, call)
            else:
                results = computed(node, call)
        except ModelportError:
            raise
        except Exception as error:  # torch raises whatever does not go together
            raise ConversionFailed(f"{type(error).__name__}: {error}", where=place) from error
        values.update((name, value) for name, value in zip(node.output, results, strict=False) if name)

    def _covered(self, node: onnx.NodeProto, call: Call) -> Sequence[Any]:
        try:
            return self._step(call)
        except Refused:
            graph = expanded(node, call)
            if graph is None:
                raise
            made = self.run(graph, dict(zip(node.input, call.inputs, strict=True)))
            found = dict(zip((output.name for output in graph.output), made, strict=True))
            return [found.get(name) for name in node.output]

    def _step(self, call: Call) -> Sequence[Any]:
        function = OPERATORS.get(call.op)
        if function is None:
            raise call.refuse("is not covered")
        if len(self.steps) >= MAX_STEPS:
            raise Unsupported(f"more than {MAX_STEPS:,} operators once loops are unrolled", where=call.where)
        result = function(call)
        results = list(result) if isinstance(result, tuple) else [result]
        slots: list[Slot | None] = []
        for index, value in enumerate(results):
            if not isinstance(value, torch.Tensor):
                slots.append(None)
                continue
            # Identity hands on its input itself: each result is a value of its own.
            results[index] = value.view_as(value) if value in self._slots else value
            slots.append(self.add(results[index]))
        if not any(slots):
            return results
        given = tuple(self.slot(value) for value in call.inputs)
        self.steps.append(
            Step(
                function,
                call.op,
                given,
                call.attributes,
                call.opset,
                call.where,
                call.constants,
                tuple(slots),
            )
        )
        return results
