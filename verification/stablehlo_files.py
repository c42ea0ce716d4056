"""A StableHLO program and its weights as files: opened without running anything, and the CPU's devices for it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..targets.errors import ConversionFailed
from .runners import NotChecked

WEIGHTS = "weights.safetensors"
AXES = ("data", "model")
LARGEST_HEADER = 100_000_000
"""Bytes that safetensors itself allows a header."""


@dataclass(frozen=True)
class Opened:
    """A program (jax.export.Exported) with what is beside it."""

    program: Any
    header: Mapping[str, Any]
    """The header of the weights' file: by name dtype, shape and data_offsets."""
    mesh: tuple[int, int]
    """(data, model): the devices that the program is for."""

    @property
    def inputs(self) -> dict[str, Any]:
        """Shape and dtype of each input by name, free axes symbolic."""
        import jax

        (_, inputs), _ = jax.tree.unflatten(self.program.in_tree, self.program.in_avals)
        return dict(inputs)

    @property
    def outputs(self) -> dict[str, Any]:
        """Shape and dtype of each output by name."""
        import jax

        return dict(jax.tree.unflatten(self.program.out_tree, self.program.out_avals))

    def places(self) -> tuple[Any, Any]:
        """Where weights and inputs go: shardings by name for a mesh, one device for all otherwise.

        Raises NotChecked where JAX was started with fewer devices than the program is for.
        """
        import jax
        import numpy as np

        devices = _cpu_devices(self.program.nr_devices)
        if len(devices) == 1:
            return devices[0], devices[0]
        mesh = jax.sharding.Mesh(np.array(devices).reshape(self.mesh), AXES)
        (weights, inputs), _ = jax.tree.unflatten(self.program.in_tree, self.program.in_shardings_jax(mesh))
        return weights, inputs


def open_program(path: Path) -> Opened:
    """The program at `path` with the weights beside it. Raises ConversionFailed for what does not fit together."""
    from jax import export

    header = read_header(path.parent / WEIGHTS)
    program = export.deserialize(bytearray(path.read_bytes()))
    told = header.pop("__metadata__", {}).get("mesh", "")
    sizes = dict(part.split("=", 1) for part in told.split(",")) if told else {}
    mesh = (int(sizes.get("data", 1)), int(sizes.get("model", 1)))
    if mesh[0] * mesh[1] != program.nr_devices:
        raise ConversionFailed(
            f"the program is for {program.nr_devices} devices, and {WEIGHTS} says {told or 'one'}",
            where=path.name,
        )
    return Opened(program, header, mesh)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file. Raises ConversionFailed where it is none."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        (length,) = struct.unpack("<Q", start) if len(start) == 8 else (size,)
        if length > min(size - 8, LARGEST_HEADER):
            raise ConversionFailed("its header is longer than the file", where=path.name)
        header: dict[str, Any] = json.loads(stream.read(length))
    return header


def _cpu_devices(count: int) -> list[Any]:
    """So many devices of the CPU, made where JAX has not started yet."""
    import jax

    try:
        jax.config.update("jax_platforms", "cpu")
        if count > 1:
            jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # JAX runs already: what it has must do
    found = jax.devices("cpu")
    if len(found) < count:
        raise NotChecked(
            f"the program is for {count} devices, and JAX was started with {len(found)} "
            f"(XLA_FLAGS=--xla_force_host_platform_device_count={count} makes as many)"
        )
    return list(found[:count])
