"""A recipe applied to a float model by ai-edge-quantizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...targets.errors import ConversionFailed
from .recipes import Recipe


def apply(data: bytes, recipe: Recipe, statistics: Mapping[str, Any] | None) -> bytes:
    """The file `data` (a float model) quantized by `recipe`; `statistics` are ranges by tensor name.

    Raises ConversionFailed where the library cannot.
    """
    # Its progress bars have no switch that reaches all of them.
    os.environ["TQDM_DISABLE"] = "1"
    from ai_edge_quantizer import quantizer

    try:
        worker = quantizer.Quantizer(bytearray(data), recipe)
        result = worker.quantize(statistics, enable_progress_report=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConversionFailed(f"ai-edge-quantizer failed: {error}") from error
    return bytes(result.quantized_model)
