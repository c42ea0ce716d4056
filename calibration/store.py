"""Keeps samples on disk as they come, cast to the model's dtypes, and hashes each one."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..targets.errors import Unsupported, UsageError
from ..targets.facts import IoFact
from . import doctor
from .reading import Sample, unpadded

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_STORED = {"bfloat16": "float32", "int4": "int8", "uint4": "uint8", "int2": "int8"}
"""Dtypes that numpy lacks, by the one that holds their values."""


class Store:
    """Samples by input in memory-mapped files of `limit` rows; only the rows written take space.

    Every sample must have the shape of the first. Raises UsageError naming the sample where one does not, or
    where a value does not survive the cast to the input's integer dtype.
    """

    def __init__(self, folder: Path, inputs: tuple[IoFact, ...], limit: int) -> None:
        folder.mkdir(parents=True)
        self._folder, self._inputs, self._limit = folder, inputs, limit
        self._arrays: dict[str, Array] = {}
        self.digests: list[bytes] = []
        """SHA-256 of each sample: equal exactly for copies."""
        self.labels: list[int | None] = []
        self.lengths: list[int | None] = []
        self.findings: dict[doctor.Finding, None] = {}
        """What the dtypes and shapes of the data gave away, in order, without repetition."""

    @property
    def count(self) -> int:
        """Samples taken in so far."""
        return len(self.digests)

    def add(self, sample: Sample) -> None:
        """Take in one sample."""
        digest = hashlib.sha256()
        for index, io in enumerate(self._inputs):
            given = sample.arrays[io.name]
            misfits = doctor.fit(io, given.dtype.name, (1, *given.shape))
            doctor.stop(misfits, sample.where)
            self.findings.update(dict.fromkeys(misfits))
            if io.name not in self._arrays:
                self._arrays[io.name] = self._create(index, io, given.shape)
            rows = self._arrays[io.name]
            if given.shape != rows.shape[1:]:
                raise UsageError(
                    f"shape {given.shape}, and the samples before have {rows.shape[1:]}",
                    where=f"{sample.where}: input {io.name}",
                    mend="Resize or pad all samples to one shape",
                )
            cast = _cast(given, rows.dtype, f"{sample.where}: input {io.name}")
            rows[self.count] = cast
            digest.update(cast.tobytes())
        self.digests.append(digest.digest())
        self.labels.append(sample.label)
        self.lengths.append(sample.length or unpadded(sample.arrays, self._inputs))

    def _create(self, index: int, io: IoFact, shape: tuple[int, ...]) -> Array:
        import numpy as np

        dtype = _STORED.get(io.dtype, io.dtype)
        try:
            kind = np.dtype(dtype)
        except TypeError:
            raise Unsupported(
                f"samples of dtype {io.dtype} cannot be stored", where=f"input {io.name}"
            ) from None
        path = self._folder / f"{index}.npy"
        # A sparse file: rows that are never written cost nothing.
        return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(self._limit, *shape))

    def arrays(self) -> dict[str, Array]:
        """The samples taken in, by input: shape (count, ...)."""
        return {name: rows[: self.count] for name, rows in self._arrays.items()}

    def ordered(self, indices: list[int], name: str) -> dict[str, Array]:
        """The samples at `indices` in that order, in memory-mapped files of their own called `name`."""
        import numpy as np

        taken: dict[str, Array] = {}
        for number, (key, rows) in enumerate(self._arrays.items()):
            path = self._folder / f"{name}-{number}.npy"
            shape = (len(indices), *rows.shape[1:])
            target = np.lib.format.open_memmap(path, mode="w+", dtype=rows.dtype, shape=shape)
            for row, index in enumerate(indices):
                target[row] = rows[index]
            taken[key] = target
        return taken

    def remove(self) -> None:
        """Delete the scratch files."""
        self._arrays.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def _cast(given: Array, dtype: np.dtype[Any], where: str) -> Array:
    import numpy as np

    if dtype.kind in "iu" and given.dtype.kind in "iu" and given.size:
        bounds = np.iinfo(dtype)
        if int(given.min()) < bounds.min or int(given.max()) > bounds.max:
            raise UsageError(f"values of {given.min()} to {given.max()} do not fit {dtype}", where=where)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(given, dtype=dtype)
