"""What a user can ask of a StableHLO program beyond its scheme: a mesh of devices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....targets.errors import UsageError

AXES = ("data", "model")
MOST_DEVICES = 4096


@dataclass(frozen=True)
class Mesh:
    """Devices in a grid: batches are split over `data`, large matrices over `model`."""

    data: int = 1
    model: int = 1

    def __str__(self) -> str:
        return f"data={self.data},model={self.model}"

    @property
    def devices(self) -> int:
        """How many devices it takes."""
        return self.data * self.model


def read(options: Mapping[str, Any], scheme: str) -> Mesh | None:
    """The options that this runtime reads from a job's: "mesh", None for one device. Raises UsageError naming it."""
    return None if options.get("mesh") is None else read_mesh(options["mesh"])


def read_mesh(text: str) -> Mesh:
    """The mesh of "data=4,model=2"; an axis that is not named has one device.

    >>> read_mesh("data=4,model=2")
    Mesh(data=4, model=2)
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\d{1,6})\s*", part, re.ASCII)
        if match is None or match[1] not in AXES or match[1] in sizes or int(match[2]) < 1:
            raise UsageError(
                f"{part.strip()!r} is not understood", where="--mesh", mend="Write it like data=4,model=2"
            )
        sizes[match[1]] = int(match[2])
    mesh = Mesh(**sizes)
    if mesh.devices > MOST_DEVICES:
        raise UsageError(
            f"{mesh.devices} devices are more than {MOST_DEVICES}", where="--mesh", mend="Ask for fewer"
        )
    return mesh
