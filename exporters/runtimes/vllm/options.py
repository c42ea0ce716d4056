"""The options of vLLM checkpoints, read before the model is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import schemes


def read(options: Mapping[str, Any], quant: str) -> str | None:
    """The folder that finished layers are kept in, or None.

    Raises UsageError where the scheme has no layers to keep, whatever data is given.
    """
    folder = options.get("resume")
    if folder and quant in schemes.SCHEMES:
        schemes.require_resumable(schemes.find(quant, calibrated=True))
    return str(folder) if folder else None
