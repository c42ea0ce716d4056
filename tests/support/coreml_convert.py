"""Torch functions and models converted to Core ML packages in float32, and run in the reference evaluator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modelport.exporters.runtimes.coreml import convert, options, package
from modelport.exporters.runtimes.coreml.convertible import Convertible
from modelport.mil.evaluate import Evaluator
from modelport.mil.package import open_package
from modelport.sources.loading.torch_model import TorchModel


class Function(torch.nn.Module):
    """A function of tensors as a module whose outputs are a tuple."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The function's result, as a tuple."""
        result = self.function(*tensors)
        return result if isinstance(result, tuple) else (result,)


def model(
    module: Callable[..., Any],
    *examples: torch.Tensor,
    outputs: int = 1,
    inputs: tuple[str, ...] = (),
    dynamic: dict[str, dict[int, str]] | None = None,
) -> TorchModel:
    """A function or module as a source gives it; inputs are x0, x1... where not named, outputs y0, y1..."""
    return TorchModel(
        module=module if isinstance(module, torch.nn.Module) else Function(module),
        input_names=inputs or tuple(f"x{index}" for index in range(len(examples))),
        output_names=tuple(f"y{index}" for index in range(outputs)),
        example=examples,
        dynamic=dynamic or {},
    )


def convertible(source: TorchModel, **asked: Any) -> Convertible:
    """The model on its way, with these options."""
    return convert.from_torch(source, options.read(asked, "fp32"), "model.pt2")


def written(source: TorchModel, folder: Path, **asked: Any) -> tuple[Convertible, tuple[str, ...]]:
    """Convert in float32 and write folder/model.mlpackage; gives the Convertible and what was said."""
    import coremltools as ct

    wanted = options.read(asked, "fp32")
    made = convert.from_torch(source, wanted, "model.pt2")
    mlmodel, notes = made.build(ct.precision.FLOAT32)
    package.write(mlmodel, folder / "model.mlpackage", wanted, made)
    return made, notes


def converted(
    module: Callable[..., Any], *examples: torch.Tensor, folder: Path, outputs: int = 1, **asked: Any
) -> tuple[Convertible, Evaluator]:
    """A function of tensors as (Convertible, Evaluator of the package that was written)."""
    source, _ = written(model(module, *examples, outputs=outputs), folder, **asked)
    return source, Evaluator(open_package(folder / "model.mlpackage").program)
