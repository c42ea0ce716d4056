"""A serialized StableHLO program with its weights, executed by JAX on the CPU, on as many devices as it asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import stablehlo_files

Array = np.ndarray[Any, Any]

PROOF = (
    "Executed from the written files by JAX on the CPU: this proves the program and its weights, not a TPU's "
    "arithmetic (its products sum in another order), and says nothing of its speed."
)


class StableHloRunner:
    """One program on the CPU; see `verification.runners.Runner`. Its boundary is float32 and int32."""

    proof = PROOF

    def __init__(self, path: Path, threads: int) -> None:
        _hold_threads(threads)
        import jax
        from safetensors.flax import load_file

        opened = stablehlo_files.open_program(path)
        weights_on, self._places = opened.places()
        self._avals, self._outputs = opened.inputs, tuple(opened.outputs)
        self._multiple = opened.mesh[0]
        self._weights = jax.device_put(load_file(path.parent / stablehlo_files.WEIGHTS), weights_on)
        self._call = jax.jit(opened.program.call)
        self._feeds: Any = {}

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


def _hold_threads(threads: int) -> None:
    """XLA's pool in `threads` threads, where JAX has not started yet."""
    flags = os.environ.get("XLA_FLAGS", "")
    if threads == 1 and "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def load(path: Path, threads: int) -> StableHloRunner:
    """Load the program at `path` with the weights beside it."""
    return StableHloRunner(path, threads)
