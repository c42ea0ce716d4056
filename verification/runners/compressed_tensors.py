"""A checkpoint of vLLM's format in transformers on the CPU: its stored numbers in float32 arithmetic.

compressed-tensors unpacks the weights and rounds the activations of each linear layer to 8 bits, token by token,
where the checkpoint says so; vLLM's kernels multiply the same numbers and add in another order.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...sources.huggingface import checkpoint
from ...targets import figures, host
from ...targets.errors import ConversionFailed
from . import NotChecked

Array = np.ndarray[Any, Any]

PROOF = (
    "The checkpoint was loaded and run in transformers on the CPU, its stored weights and the rounding of activations "
    "in float32: vLLM computes the same numbers on the GPU in another order. Speed and memory are vLLM's own."
)
NEEDS = ("torch", "transformers", "compressed_tensors")
FRAMEWORKS = 1 << 30
"""Bytes that torch and transformers take before a weight is loaded, and activations of a window: an estimate."""
_SCALE = "weight_scale"


class CheckpointRunner:
    """One loaded checkpoint; see `verification.runners.Runner`. Token ids (1, n) give logits (1, n, vocabulary)."""

    inputs = ("input_ids",)
    outputs = ("logits",)
    free_sequence = True
    proof = PROOF

    def __init__(self, path: Path, threads: int) -> None:
        """Load the folder `path`.

        Raises NotChecked where a library or memory is missing, SourceUnreadable or ConversionFailed where the folder
        does not load, or where the rounding of activations would be left out.
        """
        config = checkpoint.read_config(path)
        quantized = config.values.get("quantization_config") is not None
        needs = NEEDS if quantized else NEEDS[:2]
        lacking = [name for name in needs if importlib.util.find_spec(name) is None]
        if lacking:
            raise NotChecked(f"{' and '.join(lacking)} not installed")
        headers = checkpoint.read_weights(path).tensors
        if any(".experts." in name and name.endswith(_SCALE) for name in headers):
            # transformers merges them into tensors of its own, and has no layer left to round before.
            raise NotChecked("transformers runs a mixture's experts without rounding their activations")
        self.parameters = _elements(headers)
        _require_memory(self.parameters)
        import torch

        from ...sources.loading import huggingface_model

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = huggingface_model.pretrained(path, base=False)
        self.vocabulary = int(self._model.get_output_embeddings().weight.shape[0])
        self._last: Array = np.zeros((1, 1), np.int64)
        if quantized:
            _require_schemes(self._model, sum(name.endswith(_SCALE) for name in headers))

    def close(self) -> None:
        """Free the model."""
        del self._model

    def logits(self, window: Array, *, first: int = 0, last: int | None = None) -> Array:
        """Logits after each token from position `first` to before `last`: float32 (last - first, vocabulary)."""
        torch = self._torch
        ids = torch.tensor(np.asarray(window).ravel()[None]).to(torch.int64)
        with torch.inference_mode():
            found = self._model(input_ids=ids, use_cache=False).logits[0, first:last]
        made: Array = found.float().numpy()
        return made

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Logits of one window."""
        self._last = np.asarray(feeds["input_ids"])
        return {"logits": self.logits(self._last)[None]}

    def invoke(self) -> None:
        """Run the last window once more."""
        self.logits(self._last)


def _elements(headers: Mapping[str, Any]) -> int:
    """Values of the model's weights, the packed ones counted as what they unpack to."""
    total = 0
    for name, tensor in headers.items():
        count = 1
        for size in tensor.shape:
            count *= size
        total += 8 * count if name.endswith("weight_packed") else count
    return total


def _require_memory(parameters: int) -> None:
    needed, free = round(1.1 * 4 * parameters) + FRAMEWORKS, host.available_bytes()
    if free is not None and needed > free:
        raise NotChecked(
            f"it takes about {figures.size(needed)} of memory in float32, and {figures.size(free)} can be had"
        )


def _require_schemes(model: Any, scales: int) -> None:
    """Every layer that is stored with scales must be one that rounds as the checkpoint says."""
    found = [module for module in model.modules() if getattr(module, "quantization_scheme", None) is not None]
    if len(found) != scales or not all(getattr(module, "quantization_enabled", True) for module in found):
        raise ConversionFailed(
            f"transformers takes {len(found)} layers for quantized, and {scales} are stored so",
            where="config.json: quantization_config",
        )


def load(path: Path, threads: int) -> CheckpointRunner:
    """Load the folder at `path` for `threads` threads."""
    return CheckpointRunner(path, threads)


def load_language(path: Path, threads: int, kv: str) -> CheckpointRunner:
    """The same; `kv` is vLLM's business."""
    return CheckpointRunner(path, threads)
