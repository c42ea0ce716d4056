"""A TensorRT engine on this machine's GPU, or the engine-ready graph in ONNX Runtime where there is no engine yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import NotChecked
from .onnx import OnnxRunner

ENGINE_SUFFIX = ".engine"


class GraphRunner(OnnxRunner):
    """model.onnx in ONNX Runtime's CPU provider, unoptimised: every operator computes what the file says.

    Halves are computed as `rounded.in_float32` does. Nothing is fused: ONNX Runtime would make other sums of
    quantized pairs than TensorRT (and of float8 ones wrong ones).
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnx

        from . import rounded

        model = onnx.load(str(path))
        half = rounded.halves(model)
        self.proof = (
            "model.onnx was computed operator by operator in ONNX Runtime on the CPU"
            + (", each half result rounded from float32" if half else "")
            + "; TensorRT has not run"
        )
        given: str | bytes = str(path)
        if half:
            twin = rounded.in_float32(model)
            if twin.ByteSize() >= 2**31:
                raise NotChecked("the graph is too large to be computed with rounding here")
            given = twin.SerializeToString()
        del model
        super().__init__(given, threads, optimised=False)


class EngineRunner:
    """model.engine in TensorRT."""

    def __init__(self, path: Path) -> None:
        from ...exporters.runtimes.tensorrt import build_file, engine

        missing = engine.missing()
        if missing:
            raise NotChecked(f"an engine runs where it was built: {missing}")
        wanted = build_file.from_toml(path.with_name(build_file.NAME))
        self._session = engine.Session(path, trusted=wanted.version_compatible)
        self._free = {
            name: len(profile.best) == 2 and profile.least[1] < profile.most[1]
            for name, profile in wanted.profiles.items()
        }

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self._session.engine.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(self._session.engine.outputs)

    @property
    def free_sequence(self) -> bool:
        """Whether the profile of an integer input of rank 2 has a range on axis 1."""
        return any(
            self._free.get(name, False) for name, kind in self._session.engine.inputs.items() if "int" in kind
        )

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One inference; see `Runner.run`."""
        return self._session.run(feeds)

    def invoke(self) -> None:
        """The inference alone, on what lies on the GPU."""
        self._session.invoke()


def load(path: Path, threads: int = 1) -> GraphRunner | EngineRunner:
    """Load `path`: an engine by its suffix, a graph otherwise."""
    return EngineRunner(path) if path.suffix == ENGINE_SUFFIX else GraphRunner(path, threads)
