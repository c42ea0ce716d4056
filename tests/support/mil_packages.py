"""ML program packages that coremltools itself wrote, for the evaluator's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

IOS = ("iOS15", "iOS16", "iOS17", "iOS18")


def converted(program: Any, target: str = "iOS17", *, half: bool = False, **options: Any) -> Any:
    """A MIL program or traced module as coremltools' MLModel."""
    import coremltools

    return coremltools.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(coremltools.target, target),
        compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
        skip_model_load=True,
        **options,
    )


def save(program: Any, path: Path, target: str = "iOS17", *, half: bool = False, **options: Any) -> Path:
    """Convert a MIL program or traced module and write it as the package `path`."""
    converted(program, target, half=half, **options).save(str(path))
    return path


def build(
    path: Path,
    body: Callable[..., Any],
    inputs: Sequence[tuple[int, ...]],
    target: str = "iOS17",
    *,
    half: bool = False,
    **options: Any,
) -> Path:
    """Write the program whose values `body(builder, x0, x1, ...)` adds; its inputs are named x0, x1, ..."""
    import coremltools
    from coremltools.converters.mil.mil import Builder

    names = [f"x{n}" for n in range(len(inputs))]
    scope: dict[str, Any] = {"body": body, "builder": Builder}
    # coremltools takes the inputs' names from the function's own parameters.
    exec(f"def main({', '.join(names)}): return body(builder, {', '.join(names)})", scope)
    specs = [Builder.TensorSpec(shape=shape) for shape in inputs]
    target_version = getattr(coremltools.target, target)
    program = Builder.program(input_specs=specs, opset_version=target_version)(scope["main"])
    return save(program, path, target, half=half, **options)


def trace(
    path: Path, module: Any, example: Any, target: str = "iOS17", *, half: bool = False, **options: Any
) -> Path:
    """Write a torch module with one input `x` and one output `y`, by tracing."""
    import coremltools
    import torch

    traced = torch.jit.trace(module.eval(), example)
    inputs = [coremltools.TensorType("x", example.shape)]
    return save(
        traced, path, target, half=half, inputs=inputs, outputs=[coremltools.TensorType("y")], **options
    )
