"""Any source as a callable on named arrays: what its artifact is compared with."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...targets.errors import Unsupported

if TYPE_CHECKING:
    import numpy as np

Reference = Callable[[Mapping[str, "np.ndarray[Any, Any]"]], dict[str, "np.ndarray[Any, Any]"]]
"""Arrays by the source's input name (batch axis first) to arrays by its output name."""

LOADERS = {
    "torch-exported": "torch_model",
    "huggingface": "torch_model",
    "onnx": "onnx_model",
    "saved-model": "tensorflow",
    "keras": "tensorflow",
    "causal-lm": "causal_lm",
}
"""Source kind to the module of this folder that loads it with its own framework."""


def load_reference(kind: str, path: Path, options: Mapping[str, Any]) -> Reference:
    """Load a source for inference in its own framework, on one thread unless options["threads"] says else.

    Raises SourceUnreadable where the weights do not match the model or hold NaN or Inf, and Unsupported for
    a kind that cannot be run.
    """
    if kind not in LOADERS:
        raise Unsupported(f"a source of kind {kind!r} cannot be run for verification")
    module = importlib.import_module(f"{__package__}.{LOADERS[kind]}")
    reference: Reference = module.load_reference(kind, path, options)
    return reference
