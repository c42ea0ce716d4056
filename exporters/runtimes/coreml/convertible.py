"""The value between a source and its package: a float model that coremltools can build in any precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...job import Port

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch.export import ExportedProgram

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Convertible:
    """A float model that becomes a package in any precision; every scheme starts from one.

    `build(precision)` runs coremltools with ct.precision.FLOAT32, FLOAT16 or an FP16ComputePrecision, and gives
    an MLModel that has not been saved, and sentences about what was needed. The boundary is the same in each
    precision: float32 and int32 arrays (or an image).
    """

    build: Callable[[Any], tuple[Any, tuple[str, ...]]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    program: ExportedProgram | None = None
    """The graph that coremltools reads, after our passes; None where it reads no torch graph. A node's name is
    the name of its value in the package, where coremltools' own passes keep that value."""
    arguments: Callable[[Mapping[str, Array]], tuple[torch.Tensor, ...]] | None = None
    """Arrays by source input name, as samples hold them, to `program`'s user inputs; None without a program."""
    notes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    """For the outcome, JSON values: "deployment_target", "compute_units", "fixed_shapes" or "shapes", "labels",
    and "image" where an input takes one: {"input", "scale", "bias"}, x = pixel * scale + bias by channel."""
