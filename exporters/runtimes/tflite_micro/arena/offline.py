"""The plan written into the model: metadata that spares the device the planning and the memory for it."""

from __future__ import annotations

import copy
import struct
from typing import Any

from .planning import ArenaPlan
from .reading import OFFLINE, ONLINE

FORMAT_VERSION = 1
"""Of the metadata's layout: version, subgraphs, count of offsets, offsets; little-endian int32 each."""


def with_offline_plan(model: Any, plan: ArenaPlan) -> Any:
    """A ModelT like `model` that brings `plan`'s offsets as its own; pass it through `plan` again for its arena.

    A plan that the model already has is replaced. `model` has to be the one that `plan` was made of: the same
    tensors in the same order. Constants, empty tensors and variables stay with the interpreter.
    """
    from ai_edge_litert import schema_py_generated as schema

    tensors = [
        (number, index) for number, graph in enumerate(model.subgraphs) for index in range(len(graph.tensors))
    ]
    offsets = [plan.offsets.get(key, ONLINE) for key in tensors]
    raw = struct.pack(f"<{3 + len(offsets)}i", FORMAT_VERSION, len(model.subgraphs), len(offsets), *offsets)
    written = copy.copy(model)
    written.buffers = list(model.buffers)
    kept = [entry for entry in model.metadata or [] if entry.name != OFFLINE.encode()]
    buffer = schema.BufferT()
    buffer.data = _bytes(raw)
    written.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = OFFLINE.encode(), len(written.buffers) - 1
    written.metadata = [*kept, entry]
    return written


def _bytes(raw: bytes) -> Any:
    import numpy as np

    return np.frombuffer(raw, np.uint8)
