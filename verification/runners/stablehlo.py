"""A serialized StableHLO program with its weights, executed by JAX on the CPU, on as many devices as it asks for."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...targets.errors import ConversionFailed
from . import NotChecked

Array = np.ndarray[Any, Any]

PROOF = (
    "Executed from the written files by JAX on the CPU: this proves the program and its weights, not a TPU's "
    "arithmetic (its products sum in another order), and says nothing of its speed."
)
AXES = ("data", "model")


class StableHloRunner:
    """One program on the CPU; see `verification.runners.Runner`. Its boundary is float32 and int32."""

    proof = PROOF

    def __init__(self, path: Path, threads: int) -> None:
        sizes = mesh_of(path.parent / "weights.safetensors")
        _hold_threads(threads)
        import jax
        from jax import export
        from safetensors.flax import load_file

        program = export.deserialize(bytearray(path.read_bytes()))
        if program.nr_devices > 1 and sizes is None:
            raise ConversionFailed("weights.safetensors does not tell the program's mesh", where=path.name)
        devices = _devices(program.nr_devices)
        (_, self._avals), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
        made = jax.tree.unflatten(program.out_tree, program.out_avals)
        self._outputs = tuple(made)
        weights = load_file(path.parent / "weights.safetensors")
        self._places: Any = devices[0]
        self._multiple = 1
        weights_on: Any = devices[0]
        if sizes is not None and program.nr_devices > 1:
            mesh = jax.sharding.Mesh(np.array(devices).reshape(sizes), AXES)
            on = program.in_shardings_jax(mesh)
            (weights_on, self._places), _ = jax.tree.unflatten(program.in_tree, on)
            self._multiple = sizes[0]
        self._weights = jax.device_put(weights, weights_on)
        self._call = jax.jit(program.call)
        self._feeds: dict[str, Any] = {}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the program's inputs."""
        return tuple(self._avals)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the program's outputs."""
        return self._outputs

    @property
    def free_sequence(self) -> bool:
        """True when axis 1 of every token input (integers of rank 2) is free."""
        tokens = [
            aval.shape[1] for aval in self._avals.values() if aval.ndim == 2 and aval.dtype.kind in "iu"
        ]
        return bool(tokens) and not any(isinstance(size, int) for size in tokens)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference; batches are filled up to what the mesh divides, and cut again."""
        import jax

        arrays = {name: np.asarray(feeds[name]).astype(aval.dtype) for name, aval in self._avals.items()}
        batches = {array.shape[0] for array in arrays.values() if array.ndim}
        count = batches.pop() if len(batches) == 1 else 0
        more = -count % self._multiple
        if more:
            arrays = {name: np.concatenate([x, x[-1:].repeat(more, 0)]) for name, x in arrays.items()}
        self._feeds = jax.device_put(arrays, self._places)
        results = self._call(self._weights, self._feeds)
        return {
            name: value[:count] if more and value.ndim and value.shape[0] == count + more else value
            for name, value in ((name, np.asarray(value)) for name, value in results.items())
        }

    def invoke(self) -> None:
        """Run once more on the last feeds."""
        import jax

        jax.block_until_ready(self._call(self._weights, self._feeds))


def mesh_of(weights: Path) -> tuple[int, int] | None:
    """(data, model) of the mesh that a program is for, from its weights' metadata; None for one device."""
    with weights.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > weights.stat().st_size:
            raise ConversionFailed("its header is longer than the file", where=weights.name)
        header = json.loads(stream.read(length))
    text = header.get("__metadata__", {}).get("mesh")
    if not text:
        return None
    sizes = dict(part.split("=") for part in text.split(","))
    return int(sizes["data"]), int(sizes["model"])


def _hold_threads(threads: int) -> None:
    """XLA's pool in `threads` threads, where JAX has not started yet."""
    flags = os.environ.get("XLA_FLAGS", "")
    if threads == 1 and "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def _devices(count: int) -> list[Any]:
    """So many devices of the CPU, made where JAX has not started yet. Raises NotChecked where it has."""
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


def load(path: Path, threads: int) -> StableHloRunner:
    """Load the program at `path` with the weights beside it."""
    return StableHloRunner(path, threads)
