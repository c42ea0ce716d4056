"""Serialized StableHLO for TPUs: torch's graph run on JAX arrays, its weights apart, its batch free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....sources.loading import tensorflow_onnx
from ...job import Job, Outcome, Port, Progress

if TYPE_CHECKING:
    from ....sources.loading.torch_model import TorchModel
    from .capture import Captured
    from .options import Mesh
    from .weights import Weights

REQUIRES = ("torch", "jax", "flatbuffers", "safetensors")
"""What every conversion of this runtime imports."""

REQUIRES_FOR = tensorflow_onnx.REQUIRES_FOR

ARTIFACT = "model.stablehlo"


def export(job: Job, progress: Progress) -> Outcome:
    """Write model.stablehlo, weights.safetensors, load.py and README.md, by the scheme `job.quant` (fp32, bf16).

    Options read: "sequence" (tokens of the example, 128) and "mesh" ("data=4,model=2").

    - `capture.capture(model) -> Captured`: torch's graph in core operators, free axes free
    - `interpret.refuse_missing(program)`: every operator without a form is named before anything is traced
    - `weights.collect(program) -> Weights`: what the program reads, in the scheme's dtype
    - `program.serialized(...) -> bytes`: the graph run on JAX arrays, traced by `jax.export`

    Raises Unsupported where torch cannot capture the model or an operator has no form here, naming its source
    line, and UsageError for a mesh that does not fit the model.
    """
    from ....sources.loading import torch_model
    from . import loader, options, readme, weights

    grid = options.read(job.options, job.quant)
    path = Path(job.source_path)
    progress("make the graph", 0, 1)
    model = torch_model.load(job.source_kind, path, job.options)
    data, captured, stored = _traced(model, grid, job, progress)
    progress("write the files", 0, 1)
    staging = Path(job.staging)
    (staging / ARTIFACT).write_bytes(data)
    written = weights.write(stored, staging, "" if grid is None else str(grid))
    inputs = tuple(Port(name, name) for name in model.input_names)
    outputs = tuple(Port(name, name) for name in model.output_names)
    beside = (
        loader.write(staging, grid),
        readme.write(staging, ARTIFACT, inputs, outputs, grid),
    )
    progress("write the files", 1, 1)
    return Outcome(
        files=(ARTIFACT, written, *beside),
        inputs=inputs,
        outputs=outputs,
        notes=tuple(_notes(captured, model, grid, len(data))),
        data={"beside": list(beside)},
    )


def _traced(
    model: TorchModel, grid: Mesh | None, job: Job, progress: Progress
) -> tuple[bytes, Captured, Weights]:
    """The serialized program, what was captured and the weights; sizes are fixed where JAX must know them."""
    from . import capture, interpret, program, weights

    path, narrow = job.source_path, job.quant == "bf16"
    signature = program.Signature(model.input_names, model.output_names)
    for free in (True, False):
        captured = capture.capture(model, path, free=free)
        progress("make the graph", 1, 1)
        interpret.refuse_missing(captured.program, path)
        stored = weights.collect(captured.program, narrow=narrow, path=path)
        progress("trace the program", 0, 1)
        try:
            data = program.serialized(captured, stored, signature, narrow=narrow, grid=grid, path=path)
        except interpret.InconclusiveShape as error:
            if not free or not model.dynamic or (grid is not None and grid.data > 1):
                raise interpret.as_unsupported(error, path) from error
            continue
        progress("trace the program", 1, 1)
        return data, captured, stored
    raise AssertionError("unreachable")


def _notes(captured: Captured, model: TorchModel, grid: Mesh | None, size: int) -> list[str]:
    free = sorted(
        {length for shape in captured.inputs.values() for length in shape if isinstance(length, str)}
    )
    notes = [
        f"StableHLO of {size / 1e3:.0f} KB by jax.export for tpu and cpu, weights apart; "
        + (f"free axes: {', '.join(free)}." if free else "all shapes fixed.")
    ]
    if captured.fixed:
        axes = ", ".join(captured.fixed)
        notes.append(f"Fixed at the example's size, since the model does not leave it free: {axes}.")
    wide = [
        name for name, tensor in zip(model.input_names, model.example, strict=True)
        if str(tensor.dtype) in ("torch.int64", "torch.float64", "torch.float16", "torch.bfloat16")
    ]  # fmt: skip
    if wide:
        notes.append(f"Taken as 32-bit numbers, which JAX makes of wider ones by itself: {', '.join(wide)}.")
    if grid is not None:
        notes.append(
            f"The program is for {grid.devices} devices ({grid}): jax.export records their number, and it "
            f"runs on no other; batches are multiples of {grid.data}."
        )
    return notes
