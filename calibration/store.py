"""Keeps samples on disk as they come, cast to the model's dtypes, and hashes each one."""

from __future__ import annotations

import hashlib
import math
import shutil
from dataclasses import dataclass
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


class RowFile:
    """Samples of one input in a file of their own, written and read one by one.

    A memory map would do the same, but its pages count as the process's memory until the kernel takes them
    back, and workers have a memory limit.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._path, self._sample = path, shape
        self.dtype = dtype
        self._size = math.prod(shape) * dtype.itemsize
        self._stream = path.open("w+b")
        self._count = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, ...)."""
        return (self._count, *self._sample)

    def __len__(self) -> int:
        return self._count

    def append(self, row: Array) -> None:
        """Write one more sample."""
        self._stream.seek(self._count * self._size)
        self._stream.write(row.tobytes())
        self._count += 1

    def __getitem__(self, index: int) -> Array:
        import numpy as np

        if not 0 <= index < self._count:
            raise IndexError(index)
        self._stream.seek(index * self._size)
        return np.frombuffer(self._stream.read(self._size), self.dtype).reshape(self._sample)

    def close(self) -> None:
        """Close and delete the file."""
        self._stream.close()
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Selection:
    """Some rows in some order, read when they are asked for."""

    rows: RowFile
    indices: list[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """(count, ...)."""
        return (len(self.indices), *self.rows.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the elements."""
        return self.rows.dtype

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Array:
        return self.rows[self.indices[index]]


class Store:
    """Samples by input, on disk in `folder`; `remove` deletes them.

    Every sample must have the shape of the first. Raises UsageError naming the sample where one does not, or
    where a value does not survive the cast to the input's integer dtype.
    """

    def __init__(self, folder: Path, inputs: tuple[IoFact, ...]) -> None:
        folder.mkdir(parents=True)
        self._folder, self._inputs = folder, inputs
        self.rows: dict[str, RowFile] = {}
        """The samples taken in, by input."""
        self.digests: list[bytes] = []
        """SHA-256 of each sample: equal exactly for copies."""
        self.labels: list[int | None] = []
        self.lengths: list[int | None] = []
        self.findings: dict[doctor.Finding, None] = {}
        """What the dtypes and shapes of the data gave away, in order, without repetition."""

    def add(self, sample: Sample) -> None:
        """Take in one sample."""
        digest = hashlib.sha256()
        for index, io in enumerate(self._inputs):
            given = sample.arrays[io.name]
            misfits = doctor.fit(io, given.dtype.name, (1, *given.shape))
            doctor.stop(misfits, sample.where)
            self.findings.update(dict.fromkeys(misfits))
            if io.name not in self.rows:
                self.rows[io.name] = RowFile(self._folder / str(index), _dtype(io), given.shape)
            rows = self.rows[io.name]
            if given.shape != rows.shape[1:]:
                raise UsageError(
                    f"shape {given.shape}, and the samples before have {rows.shape[1:]}",
                    where=f"{sample.where}: input {io.name}",
                    mend="Resize or pad all samples to one shape",
                )
            cast = _cast(given, rows.dtype, f"{sample.where}: input {io.name}")
            rows.append(cast)
            digest.update(cast.tobytes())
        self.digests.append(digest.digest())
        self.labels.append(sample.label)
        self.lengths.append(sample.length or unpadded(sample.arrays, self._inputs))

    def select(self, indices: list[int]) -> dict[str, Selection]:
        """The samples at `indices`, in that order, by input."""
        return {name: Selection(rows, indices) for name, rows in self.rows.items()}

    def remove(self) -> None:
        """Delete the files."""
        for rows in self.rows.values():
            rows.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _dtype(io: IoFact) -> np.dtype[Any]:
    import numpy as np

    try:
        return np.dtype(_STORED.get(io.dtype, io.dtype))
    except TypeError:
        raise Unsupported(f"samples of dtype {io.dtype} cannot be stored", where=f"input {io.name}") from None


def _cast(given: Array, dtype: np.dtype[Any], where: str) -> Array:
    import numpy as np

    if dtype.kind in "iu" and given.dtype.kind in "iu" and given.size:
        bounds = np.iinfo(dtype)
        if int(given.min()) < bounds.min or int(given.max()) > bounds.max:
            raise UsageError(f"values of {given.min()} to {given.max()} do not fit {dtype}", where=where)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(given, dtype=dtype)
