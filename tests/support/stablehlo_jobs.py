"""What the tests of StableHLO share: operators beside torch's, and exports of small modules in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelport.exporters.job import Job, Outcome


def close(name: str, *arguments: Any, tolerance: float = 2e-5, **options: Any) -> None:
    """Hold our function of an operator to torch's, on the same arguments (tensors, numbers, lists)."""
    import jax.numpy as jnp

    from modelport.exporters.runtimes.stablehlo.operators import OPERATORS

    _, packet, overload = name.split(".")
    expected = getattr(getattr(torch.ops.aten, packet), overload)(*arguments, **options)

    def ours(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return jnp.asarray(value.numpy())
        return [ours(each) for each in value] if isinstance(value, list | tuple) else value

    named = {key: ours(value) for key, value in options.items() if key not in ("dtype", "device")}
    found = OPERATORS[name](*map(ours, arguments), **named)
    pairs = zip(expected, found, strict=False) if isinstance(expected, list | tuple) else [(expected, found)]
    for want, have in pairs:
        have = np.asarray(have)
        assert have.shape == tuple(want.shape), f"{name}: {have.shape}, torch {tuple(want.shape)}"
        if want.is_floating_point():
            np.testing.assert_allclose(have.astype(np.float32), want.numpy(), rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(have, want.numpy())


def write_program(
    path: Path,
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    free: Mapping[int, str] | None = None,
) -> Path:
    """A module as a .pt2 whose inputs have these axes free, by axis and name."""
    shapes = None
    if free:
        dims = {axis: torch.export.Dim(name, min=1, max=1 << 12) for axis, name in free.items()}
        shapes = tuple({axis: dim for axis, dim in dims.items() if axis < each.dim()} for each in example)
    program = torch.export.export(module.eval(), tuple(example), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def export(path: Path, quant: str, out: Path, kind: str = "torch-exported", **options: Any) -> Outcome:
    """What the exporter reports of one job in this process; its files lie in `out`."""
    from modelport.exporters.runtimes import stablehlo

    (out / "work").mkdir(parents=True)
    job = Job(
        (), kind, str(path), "cloud-tpu", "stablehlo", quant, str(out), str(out / "work"), options=options
    )
    return stablehlo.export(job, lambda stage, done, total: None)


def run(out: Path, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    """The written program's outputs, executed from its files."""
    from modelport.verification.runners import load

    runner = load(out / "model.stablehlo", "stablehlo")
    assert runner is not None
    return runner.run(feeds)
