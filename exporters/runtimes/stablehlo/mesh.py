"""Where inputs and weights of a program lie on a mesh of devices."""

from __future__ import annotations

import math

from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from .options import AXES, Mesh

LEAST_SPLIT = 1 << 14
"""Elements below which a weight is copied to every device instead: splitting it saves nothing."""


def abstract(mesh: Mesh) -> AbstractMesh:
    """The mesh without devices, as programs are exported for it."""
    return AbstractMesh((mesh.data, mesh.model), AXES, axis_types=(AxisType.Auto,) * 2)


def of_input(mesh: Mesh, rank: int) -> NamedSharding:
    """Batches (axis 0) over the data axis; numbers on every device."""
    return NamedSharding(abstract(mesh), PartitionSpec("data") if rank else PartitionSpec())


def of_weight(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """The longest axis that divides evenly over the model axis, the first of equal ones; or none.

    Of matrices (out, in) that splits the wider side: a widening layer by its outputs and the narrowing one behind
    it by its inputs, so that the pair needs one exchange.
    """
    fitting = [axis for axis, length in enumerate(shape) if length % mesh.model == 0]
    if mesh.model == 1 or len(shape) < 2 or math.prod(shape) < LEAST_SPLIT or not fitting:
        return NamedSharding(abstract(mesh), PartitionSpec())
    axis = max(fitting, key=lambda candidate: shape[candidate])
    return NamedSharding(abstract(mesh), PartitionSpec(*[None] * axis, "model"))
