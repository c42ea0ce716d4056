"""An ONNX file as a torch module that torch.export takes: how ONNX reaches targets that read programs.

One short function an operator, a module a family (`operators/`); what does not depend on the inputs is computed
beforehand (`plan.py`). Sizes that a file leaves free are fixed at those of the example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....targets.errors import ConversionFailed, Unsupported
from ..torch_model import DEFAULT_SEQUENCE, TorchModel

if TYPE_CHECKING:
    import onnx
    import torch


def load(path: Path, options: Mapping[str, Any]) -> TorchModel:
    """The validated ONNX file at `path` as a module, with an example of each input.

    Free axes are fixed: at `options["sizes"]`, shapes by input, where it has them, else the first at 1 and the tokens
    at `options["sequence"]` (128). Raises Unsupported, naming the node, for an operator or a form of it that is not
    covered, and for other free axes.
    """
    from onnx import inliner

    from . import stored

    model = stored.read(path)
    if model.functions:
        model = inliner.inline_local_functions(model)
    return build(model, path, int(options.get("sequence") or DEFAULT_SEQUENCE), options.get("sizes") or {})


def build(
    model: onnx.ModelProto, path: Path, sequence: int, sizes: Mapping[str, Sequence[int]] | None = None
) -> TorchModel:
    """A model without functions as a module; external data lies beside `path`, `sizes` are shapes by input."""
    import torch

    from .plan import Plan
    from .program import Program

    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    stored = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in stored]
    given = sizes or {}
    examples = [_example(value, sequence, path.name, given.get(value.name, ())) for value in fed]
    plan = Plan(opset, path)
    inputs = [plan.add(tensor) for tensor in examples]
    with torch.no_grad():
        results = plan.run(
            model.graph, {value.name: tensor for value, tensor in zip(fed, examples, strict=True)}
        )
    module = Program(plan.steps, inputs, [plan.slot(value) for value in results])
    return TorchModel(
        module=module.eval(),
        input_names=tuple(value.name for value in fed),
        output_names=tuple(value.name for value in model.graph.output),
        example=tuple(examples),
        dynamic={},
    )


def _example(value: onnx.ValueInfoProto, sequence: int, where: str, given: Sequence[int]) -> torch.Tensor:
    """Ones, or integers of zero, in the shape of an input, free axes fixed."""
    import torch

    from .dtypes import DTYPES

    place = f"{where}: input {value.name!r}"
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise Unsupported("is no tensor of a known rank", where=place)
    if tensor.elem_type not in DTYPES:
        raise Unsupported(f"holds data type {tensor.elem_type}", where=place)
    sizes = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            sizes.append(dim.dim_value)
        elif len(given) == len(tensor.shape.dim):
            sizes.append(given[axis])
        elif axis == 0:
            sizes.append(1)
        elif axis == 1 and len(tensor.shape.dim) in (2, 3):
            sizes.append(sequence)
        else:
            raise Unsupported(
                f"leaves axis {axis} free",
                where=place,
                mend="Export the model with that size fixed, or give data",
            )
    try:
        # Whatever an integer indexes has a place 0.
        dtype = DTYPES[tensor.elem_type]
        return torch.ones(sizes).to(dtype) if dtype.is_floating_point else torch.zeros(sizes, dtype=dtype)
    except RuntimeError as error:
        raise ConversionFailed(str(error), where=place) from error
