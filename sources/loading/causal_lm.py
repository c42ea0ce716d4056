"""A Hugging Face causal language model in torch: what its artifact's log-probabilities are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..huggingface import checkpoint
from ..huggingface.causal_lm import KIND
from . import finite, huggingface_model
from .reference import Reference

if TYPE_CHECKING:
    import numpy as np

FRAMEWORKS = 1 << 30
"""Bytes that torch and transformers take before a weight is loaded, and activations of a window: an estimate."""


def memory_bytes(path: Path) -> int:
    """Memory that running the checkpoint in float32 takes, in bytes, by its headers: an estimate.

    The weights once, a tenth more for what loading holds beside them, and `FRAMEWORKS`.
    """
    elements = 0
    for tensor in checkpoint.read_weights(path).tensors.values():
        count = 1
        for size in tensor.shape:
            count *= size
        elements += count
    return round(1.1 * 4 * elements) + FRAMEWORKS


def load_reference(kind: str, path: Path, options: Mapping[str, Any]) -> Reference:
    """The model as a function of "input_ids" (batch, tokens) to "logits" (batch, tokens, vocabulary), float32.

    Loaded as encoders are: safetensors only, local files only, never its own code, every weight accounted for.
    Runs on options["threads"] threads, which are the process's.
    """
    import torch

    if kind != KIND:
        raise ValueError(f"{kind!r} is not {KIND!r}")
    torch.set_num_threads(int(options.get("threads") or 1))
    model = huggingface_model.pretrained(path, base=False)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            finite.refuse_non_finite(tensor.float().numpy(), f"{path}: weight {name}")

    def run(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        ids = torch.tensor(feeds["input_ids"]).to(torch.int64)
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits
        return {"logits": logits.float().numpy()}

    return run
