"""A mesh of devices as the user writes it, and where inputs and weights lie on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from ....targets.errors import UsageError

AXES = ("data", "model")
LEAST_SPLIT = 1 << 14
"""Elements below which a weight is copied to every device instead: splitting it saves nothing."""
MOST_DEVICES = 4096


@dataclass(frozen=True)
class Mesh:
    """Devices in a grid: batches are split over `data`, large matrices over `model`."""

    data: int = 1
    model: int = 1

    @property
    def devices(self) -> int:
        """How many devices it takes."""
        return self.data * self.model

    def abstract(self) -> AbstractMesh:
        """The mesh without devices, as programs are exported for it."""
        return AbstractMesh((self.data, self.model), AXES, axis_types=(AxisType.Auto,) * 2)

    def of_input(self, rank: int) -> NamedSharding:
        """Batches (axis 0) over the data axis; numbers on every device."""
        return NamedSharding(self.abstract(), PartitionSpec("data") if rank else PartitionSpec())

    def of_weight(self, shape: tuple[int, ...]) -> NamedSharding:
        """The longest axis that divides evenly over the model axis, the first of equal ones; or none.

        Of (out, in) matrices that split the wider side, a widening layer is split by its outputs and a narrowing
        one by its inputs, so that a pair of them needs one exchange.
        """
        size = 1
        for length in shape:
            size *= length
        fitting = [axis for axis, length in enumerate(shape) if length % self.model == 0]
        if self.model == 1 or len(shape) < 2 or size < LEAST_SPLIT or not fitting:
            return NamedSharding(self.abstract(), PartitionSpec())
        axis = max(fitting, key=lambda candidate: shape[candidate])
        return NamedSharding(self.abstract(), PartitionSpec(*[None] * axis, "model"))


def read(text: str | None) -> Mesh | None:
    """The mesh of "data=4,model=2", None for none. Raises UsageError naming the option."""
    if text is None:
        return None
    sizes: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\d{1,6})\s*", part)
        if match is None or match[1] not in AXES or match[1] in sizes or int(match[2]) < 1:
            raise UsageError(
                f"{part.strip()!r} is not understood", where="--mesh", mend="Write data=4,model=2"
            )
        sizes[match[1]] = int(match[2])
    mesh = Mesh(**sizes)
    if mesh.devices > MOST_DEVICES:
        raise UsageError(
            f"{mesh.devices} devices are more than {MOST_DEVICES}", where="--mesh", mend="Ask for fewer"
        )
    return mesh


def describe(mesh: Any) -> str:
    """A mesh as the user writes it."""
    return f"data={mesh.data},model={mesh.model}"
