"""Checkpoint to checkpoint without the model: each weight is read, cast or rounded and written in slabs of rows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ....sources.place import Place
from ....targets.errors import ConversionFailed, SourceUnreadable
from ...job import Progress
from . import rounding, shards
from .layout import Layout, Weight
from .schemes import Scheme

Array = np.ndarray[Any, Any]

SLAB = 1 << 22
"""Values that are worked on at a time; a longer row is taken whole."""
STAGE = "quantize"


class Source:
    """The source's files, opened once each and read in pieces: mapped pages would count as our memory."""

    def __init__(self) -> None:
        self._handles: dict[Path, int] = {}
        self._open = ExitStack()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def slabs(self, place: Place) -> Iterator[tuple[int, Array]]:
        """(first row, rows) of a tensor in its own dtype, copied out of the file; vectors count as one row."""
        rows = place.shape[0] if len(place.shape) > 1 else 1
        width = math.prod(place.shape) // max(rows, 1)
        dtype = rounding.NUMPY[place.dtype]
        handle = self._handle(place.file)
        step = max(1, SLAB // max(width, 1))
        for first in range(0, rows, step):
            count = min(step, rows - first)
            begin = place.begin + first * width * dtype.itemsize
            held = bytearray(count * width * dtype.itemsize)
            _read(handle, held, begin, place.file)
            yield first, np.frombuffer(held, dtype).reshape(count, width)

    def _handle(self, file: Path) -> int:
        if file not in self._handles:
            self._handles[file] = self._open.enter_context(file.open("rb")).fileno()
        return self._handles[file]


def _read(handle: int, into: bytearray, begin: int, file: Path) -> None:
    """Fill a buffer from a file; one call gives at most 2 GiB."""
    view = memoryview(into)
    while view:
        done = os.preadv(handle, [view], begin)
        if not done:
            raise SourceUnreadable("has become shorter while it was read", where=file.name)
        view, begin = view[done:], begin + done


def write(layout: Layout, scheme: Scheme, folder: Path, files: shards.Files, progress: Progress) -> None:
    """Write every tensor of the layout into `folder`.

    Raises SourceUnreadable for values that are NaN or infinite, and ConversionFailed for those that float16
    cannot hold, each naming the weight.
    """
    with shards.Writer(folder, files, layout.stored) as writer, Source() as source:
        for index, weight in enumerate(layout.weights):
            progress(STAGE, index, len(layout.weights))
            for first, rows in source.slabs(weight.place):
                _put(writer, weight, scheme, first, cast(weight, rows))
    progress(STAGE, len(layout.weights), len(layout.weights))


def cast(weight: Weight, rows: Array) -> Array:
    """Rows in the dtype that the model is loaded in, checked to be finite before and after."""
    with np.errstate(over="ignore"):
        made = rows.astype(rounding.NUMPY[weight.dtype], copy=False)
    refuse_non_finite(weight, rows)
    if made.dtype != rows.dtype and not np.isfinite(made).all():
        most = float(np.abs(rows.astype(np.float64)).max())
        raise ConversionFailed(
            f"{int((~np.isfinite(made)).sum()):,} or more values are beyond {weight.dtype}, as {most:.6g}",
            where=weight.where,
            mend="Choose bf16, or a scheme that keeps the checkpoint's own dtype",
        )
    return made


def refuse_non_finite(weight: Weight, rows: Array) -> None:
    """Raise SourceUnreadable where a weight holds NaN or infinite values."""
    finite = np.isfinite(rows)
    if not finite.all():
        raise SourceUnreadable(
            f"{int((~finite).sum()):,} or more values are NaN or infinite",
            where=weight.where,
            mend="Start from undamaged weights",
        )


def _put(writer: shards.Writer, weight: Weight, scheme: Scheme, first: int, rows: Array) -> None:
    if len(weight.stored) == 1:
        stored = weight.stored[0]
        writer.write(stored.name, data(rows), first * rows.shape[1] * rows.itemsize)
        return
    values, scale = weight.stored
    found = rounding.scales(rows, scheme.weights)
    stored_rows = rounding.quantize(rows, found, scheme.weights)
    writer.write(values.name, data(stored_rows), first * rows.shape[1])
    writer.write(scale.name, data(found), first * found.itemsize)


def data(array: Array) -> memoryview:
    """The array's bytes, as they are written."""
    # ml_dtypes' arrays have no buffer format of their own.
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1).data
