"""A written artifact as a callable, in the runtime that its target uses."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


class NotChecked(Exception):
    """The artifact may be right, but nothing here can run it; the message says why, as in "op fancy_op".

    Verification then says "not checked: op fancy_op", and never that it passed.
    """


class Runner(Protocol):
    """One loaded artifact. Names, layout and static shapes are the artifact's; values are real numbers.

    A runner hides the boundary's dtype: it quantizes a float feed with the artifact's own scale and zero
    point where the input is integer-quantized, dequantizes such outputs, and casts integer ids (int64 to
    int32) where the artifact wants that.

    A runner that is not the artifact's own runtime says so by a further attribute `proof`: a sentence on what
    running it shows. Its speed and memory are then no figures of the artifact.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the artifact's inputs."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the artifact's outputs."""

    @property
    def free_sequence(self) -> bool:
        """True when the sequence axis (axis 1 of token inputs) is free, so padding can be cut off."""

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One inference: arrays by artifact input name to float arrays by artifact output name."""

    def invoke(self) -> None:
        """Run once more on the last feeds, doing nothing but the inference: what latency is measured on."""


class LanguageRunner(Protocol):
    """One loaded language model, from `load_language(path, threads, kv)` of its format's module.

    The module's `PROOF`, where it has one, says what running it shows where that is not the artifact's own runtime.
    """

    @property
    def vocabulary(self) -> int:
        """How many logits a position has."""

    @property
    def parameters(self) -> int:
        """How many weights the model has."""

    def logits(
        self, window: np.ndarray[Any, Any], *, first: int = 0, last: int | None = None
    ) -> np.ndarray[Any, Any]:
        """Logits after each token from position `first` to before `last`: float32 (last - first, vocabulary)."""

    def close(self) -> None:
        """Free everything."""


def load(path: Path, file_format: str, *, threads: int = 1) -> Runner | None:
    """Load `path` for inference; None when no runner knows the format.

    One module of this folder a format (`tflite.py`, `onnx.py`), each with `load(path, threads) -> Runner`.
    """
    module = of_format(file_format)
    if module is None:
        return None
    runner: Runner = module.load(path, threads)
    return runner


def of_format(file_format: str) -> Any:
    """The module of this folder that runs a format ("compressed-tensors": compressed_tensors.py), or None."""
    name = f"{__name__}.{file_format.replace('-', '_')}"
    return importlib.import_module(name) if importlib.util.find_spec(name) is not None else None
