"""ONNX files as torch programs: the standard's own cases of every operator, and the memory that an import takes."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from bar import close
from onnx import numpy_helper

from modelport.sources.loading import onnx_program
from modelport.sources.loading.onnx_program.dtypes import to_torch
from modelport.sources.loading.onnx_program.nested import NESTED
from modelport.sources.loading.onnx_program.operators import OPERATORS
from modelport.targets.errors import Unsupported

Array = np.ndarray[Any, Any]

RTOL, BF16_RTOL, ATOL = 1e-3, 2**-6, 1e-7
"""What onnx's own runner of these cases allows."""


@dataclass(frozen=True)
class Case:
    """One case of the standard: a model of numeric tensors, what goes in and what shall come out."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


def cases() -> Iterator[Case]:
    """Every node case of the domain ai.onnx whose inputs and outputs are tensors of floats, integers or bools."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        if {entry.domain for entry in case.model.opset_import} != {""}:
            continue
        inputs, outputs = (_arrays(side) for side in case.data_sets[0])
        if inputs is not None and outputs is not None:
            yield Case(case.name, case.model, inputs, outputs)


def _arrays(values: Sequence[Any]) -> tuple[Array, ...] | None:
    """The values where all are numbers; None where one is a text, a sequence or nothing at all."""
    found = []
    for value in values:
        if isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        if value is None or isinstance(value, list) or np.asarray(value).dtype.kind in "OUS":
            return None
        found.append(np.asarray(value))
    return tuple(found)


def run(case: Case, bound: Callable[[int, Array], bool], *, export: bool) -> list[torch.Tensor]:
    """The program's results; inputs that are `bound` are stored in the file, as exporters store sizes and axes."""
    model, live = onnx.ModelProto(), []
    model.CopyFrom(case.model)
    given = list(model.graph.input)
    for index, (value, array) in enumerate(zip(given, case.inputs, strict=False)):
        if bound(index, array):
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
            continue
        live.append(to_torch(array))
        value.type.tensor_type.shape.ClearField("dim")
        for size in array.shape:
            value.type.tensor_type.shape.dim.add().dim_value = size
    operators = {node.op_type for node in model.graph.node}
    if not live and not operators & (OPERATORS.keys() | NESTED.keys()):
        # onnx's reference would compute it beforehand, and prove nothing.
        raise Unsupported(f"{', '.join(sorted(operators))} is not covered")
    module: Any = onnx_program.build(model, Path("case.onnx"), 8).module
    if export and live:
        module = torch.export.export(module, tuple(live), strict=False).module()
    return list(module(*live))


BINDINGS: tuple[Callable[[int, Array], bool], ...] = (
    lambda index, array: False,
    lambda index, array: bool(index) and array.ndim <= 1,
    lambda index, array: array.ndim <= 1,
)
"""Which inputs are stored: none, then, where a program needs to know them, vectors and scalars."""


def check(case: Case, *, export: bool = True) -> str:
    """Empty where the case passes, else the reason why not."""
    refusal = ""
    for bound in BINDINGS:
        try:
            given = run(case, bound, export=export)
        except Unsupported as error:
            refusal = refusal or str(error)
            continue
        except Exception as error:  # whatever goes wrong is a case that fails
            return f"{type(error).__name__}: {error}"
        return _difference(case.outputs, given)
    return refusal


def _difference(wanted: Sequence[Array], given: Sequence[torch.Tensor]) -> str:
    for number, (array, tensor) in enumerate(zip(wanted, given, strict=True)):
        expected = to_torch(array)
        if (expected.shape, expected.dtype) != (tensor.shape, tensor.dtype):
            return (
                f"output {number} is {tensor.dtype} {list(tensor.shape)}, "
                f"not {expected.dtype} {list(expected.shape)}"
            )
        if not np.allclose(_wide(tensor), _wide(expected), rtol=_rtol(expected), atol=ATOL, equal_nan=True):
            return f"output {number} differs by up to {np.abs(_wide(tensor) - _wide(expected)).max():.2g}"
    return ""


def _rtol(expected: torch.Tensor) -> float:
    return BF16_RTOL if expected.dtype == torch.bfloat16 else RTOL


def _wide(tensor: torch.Tensor) -> Array:
    return tensor.detach().to(torch.float64).numpy() if tensor.dtype != torch.uint64 else tensor.numpy()


def main() -> None:
    """Run every case, name those that fail, and print the line with figures and bars."""
    torch.set_num_threads(1)
    failed: dict[str, str] = {}
    operators: Counter[str] = Counter()
    total = 0
    for case in cases():
        total += 1
        reason = check(case)
        if reason:
            failed[case.name] = reason
            operators[
                case.model.graph.node[0].op_type if len(case.model.graph.node) == 1 else "expanded"
            ] += 1
            print(f"  {case.name}: {reason.splitlines()[0][:150]}")
    print(", ".join(f"{name} {count}" for name, count in operators.most_common()))
    passed = total - len(failed)
    print(f"{passed} of {total} cases")
    close("onnx-import", [("share of the standard's node cases", passed / total, ">=", 0.8)])


if __name__ == "__main__":
    sys.exit(main())
