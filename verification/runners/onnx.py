"""An ONNX file in ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...sources.loading.onnx_model import as_input


class OnnxRunner:
    """One session; see `verification.runners.Runner`. Inputs and outputs of these files are never quantized."""

    def __init__(self, given: str | bytes, threads: int, *, optimised: bool = True) -> None:
        """`given` is a path, or a model's bytes; unoptimised, every operator computes what the file says."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        if not optimised:
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(given, settings, providers=["CPUExecutionProvider"])
        self._types = {given.name: given.type for given in self._session.get_inputs()}
        self._names = [given.name for given in self._session.get_outputs()]
        self._feeds: dict[str, np.ndarray[Any, Any]] = {}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the artifact's inputs."""
        return tuple(self._types)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the artifact's outputs."""
        return tuple(self._names)

    @property
    def free_sequence(self) -> bool:
        """True when axis 1 of every token input (integers of rank 2) is free."""
        tokens = [
            given.shape[1]
            for given in self._session.get_inputs()
            if "int" in given.type and len(given.shape) == 2
        ]
        return bool(tokens) and not any(isinstance(size, int) for size in tokens)

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One inference; feeds are cast to the dtypes that the file asks for."""
        self._feeds = {name: as_input(feeds[name], kind) for name, kind in self._types.items()}
        results = self._session.run(self._names, self._feeds)
        return dict(zip(self._names, map(_real, results), strict=True))

    def invoke(self) -> None:
        """Run once more on the last feeds."""
        self._session.run(self._names, self._feeds)


def _real(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def load(path: Path, threads: int) -> OnnxRunner:
    """Load the model at `path`, external data beside it, for `threads` threads."""
    return OnnxRunner(str(path), threads)
