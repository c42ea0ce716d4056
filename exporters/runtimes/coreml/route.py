"""The road through coremltools: convert, decompose what its translations cannot take, trace as the last resort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....targets.errors import ModelportError
from ...torch_nodes import without_form
from . import boundary, explain, passes, quiet
from .options import COMPUTE_UNITS, Wanted
from .passes import decompose, known, translations

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from ....sources.loading.torch_model import TorchModel

RETRIES = 4
"""How many operators may fail in coremltools' hands and be decomposed instead, before tracing is tried."""
LABEL = "classLabel"
PROBABILITIES = "classLabel_probs"
"""Outputs that labels add; coremltools makes the second name out of the first."""


@dataclass(frozen=True)
class Route:
    """One model on its way into a package."""

    model: TorchModel
    """As the package has it: with pixels in and probabilities out, where asked for."""
    exported: ExportedProgram
    """Before our passes."""
    prepared: ExportedProgram
    """After them."""
    wanted: Wanted
    image: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """Names in the package, the probabilities' included."""
    path: str

    def build(self, precision: Any) -> tuple[Any, tuple[str, ...]]:
        """The MLModel in this precision, and sentences about the road taken.

        An operator whose translation fails is decomposed by torch, and the conversion done again; where that
        does not help the model is traced. Raises the first failure's error.
        """
        program, whole = self.prepared, frozenset[str]()
        first: ModelportError | None = None
        with quiet.quietly(), translations.registered():
            for _ in range(RETRIES):
                try:
                    return self._convert(program, precision), (self._sentence(whole),)
                except Exception as error:  # coremltools raises whatever its translations met
                    failed = explain.failed(error, self.path, self.wanted.target)
                    failed.__cause__ = error
                    first = first or failed
                    operator = _operator(program, explain.failing_node(error))
                    if operator is None or operator in whole or not decompose.can_decompose(operator):
                        break
                    whole |= {operator}
                    program = passes.prepare(self.exported, whole)
            assert first is not None
            return self._traced(precision, first)

    def _convert(self, program: Any, precision: Any) -> Any:
        import coremltools as ct

        shapes: dict[str, Any] = {
            name: self.wanted.shapes[own]
            for own, name in zip(self.model.input_names, self.inputs, strict=True)
            if own in self.wanted.shapes
        }
        labels = None
        if self.wanted.labels:
            # coremltools cannot match descriptions of outputs with labels, which add two.
            _name_outputs(program, self.outputs)
            labels = ct.ClassifierConfig(
                list(self.wanted.labels),
                predicted_feature_name=LABEL,
                predicted_probabilities_output=self.outputs[-1],
            )
        return ct.convert(
            program,
            convert_to="mlprogram",
            inputs=boundary.input_types(self.prepared, self.inputs, shapes, self.model.example, self.image),
            outputs=None if labels else boundary.output_types(self.prepared, self.outputs),
            classifier_config=labels,
            minimum_deployment_target=getattr(ct.target, self.wanted.target),
            compute_precision=precision,
            compute_units=getattr(ct.ComputeUnit, COMPUTE_UNITS[self.wanted.compute_units]),
            skip_model_load=True,
        )

    def _traced(self, precision: Any, first: ModelportError) -> tuple[Any, tuple[str, ...]]:
        """The model by torch.jit.trace, which coremltools reads by another frontend; fixed shapes only."""
        import torch

        if self.wanted.shapes:
            raise first
        try:
            with torch.no_grad():
                traced = torch.jit.trace(self.model.module, self.model.example, check_trace=False)
                model = self._convert(traced, precision)
        except Exception as error:  # the first road's error says more
            raise first from error
        return model, (f"Converted from a trace, since the exported program failed: {first.fact}.",)

    def _sentence(self, whole: frozenset[str]) -> str:
        import coremltools as ct
        import torch

        road = f"torch.export of torch {torch.__version__.partition('+')[0]} and coremltools {ct.__version__}"
        if whole:
            road += f"; decomposed, since coremltools failed on them: {', '.join(sorted(whole))}"
        return f"Converted by {road}."


def _name_outputs(program: ExportedProgram, names: tuple[str, ...]) -> None:
    """Name the nodes behind the outputs, which is what coremltools calls them without a description."""
    graph = program.graph_module.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    for node, name, spec in zip(output.args[0], names, program.graph_signature.output_specs, strict=True):
        for other in graph.nodes:
            if other.name == name and other is not node and other.op == "call_function":
                other._rename(f"{name}_inside")
        node._rename(name)
        spec.arg.name = node.name


def refuse_unknown(program: ExportedProgram, path: str) -> None:
    """Raise Unsupported for operators that neither coremltools nor our translations know."""
    unknown = [
        node for node in program.graph.nodes if node.op == "call_function" and not known.is_known(node.target)
    ]
    if unknown:
        raise without_form(unknown, "Core ML has no form of", path)


def _operator(program: ExportedProgram, node: Any) -> str | None:
    """The torch operator ("aten.gelu.default") of coremltools' node."""
    name = str(getattr(node, "name", ""))
    found: Mapping[str, Any] = {each.name: each.target for each in program.graph.nodes}
    return str(found[name]) if name in found else None
