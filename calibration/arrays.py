"""Reads .npz and .npy samples row by row: headers are checked first, pickles are refused, memory stays bounded."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..sources.files import zipguard
from ..targets.errors import SourceUnreadable, UsageError
from . import doctor
from .reading import Reading, Sample, Wanted, choose

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

LABELS = ("labels", "label", "y")
"""Keys that hold the right classes, where they are no input."""
_MAX_FORTRAN = 1 << 30  # an array in Fortran order must be held whole to be cut into samples
_MAX_HEADER = 1 << 16


@dataclass
class _Member:
    """One array of the file, its header read and its stream standing at the first element."""

    name: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    _whole: Array | None = field(default=None)
    _next: int = 0

    def row(self, index: int) -> Array:
        """Sample `index`; indices must ascend from call to call."""
        import numpy as np

        if self.fortran:
            if self._whole is None:
                count = math.prod(self.shape)
                flat = np.frombuffer(self._read(count * self.dtype.itemsize), self.dtype)
                self._whole = flat.reshape(self.shape, order="F")
            return np.ascontiguousarray(self._whole[index])
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        for _ in range(index - self._next):
            self._read(size)
        self._next = index + 1
        return np.frombuffer(self._read(size), self.dtype).reshape(self.shape[1:])

    def _read(self, size: int) -> bytes:
        try:
            data = self.stream.read(size)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
            raise UsageError(f"the data is damaged: {error}", where=self.name) from None
        if len(data) != size:
            raise UsageError("the array is shorter than its header says", where=self.name)
        return data


def read(path: Path, wanted: Wanted) -> Reading:
    """Samples from an .npz whose keys are the model's input names, or from one .npy array.

    Every array has the sample axis first. A model with a single input takes a single array of any name.
    A key of `LABELS` that is no input holds the right class of each sample.

    Raises UsageError naming file and key: damaged files, object arrays, missing keys, counts that differ,
    shapes and dtypes that do not fit.
    """
    streams = ExitStack()
    try:
        members = _open(path, streams)
        by_input, labels, extra = _assign(members, wanted, path.name)
        total = _count(by_input, labels)
        findings = tuple(
            finding
            for name, member in by_input.items()
            for finding in doctor.fit(wanted.input(name), member.dtype.name, member.shape)
        )
        doctor.stop(findings, path.name)
        classes = _labels(labels) if labels is not None else None
        for member in by_input.values():
            _bound(member)
    except BaseException:
        streams.close()
        raise
    unused = (f"{path.name}: {', '.join(extra)} is no input of the model and was left out",) if extra else ()
    chosen = choose(total, wanted.limit, wanted.seed)
    return Reading(
        "arrays", _rows(path, by_input, classes, chosen, streams), warnings=unused, findings=findings
    )


def _rows(
    path: Path, members: Mapping[str, _Member], classes: Array | None, chosen: list[int], streams: ExitStack
) -> Generator[Sample, None, None]:
    with streams:
        for index in chosen:
            arrays = {name: member.row(index) for name, member in members.items()}
            label = int(classes[index]) if classes is not None else None
            yield Sample(arrays, f"{path.name}: sample {index}", label)


def _open(path: Path, streams: ExitStack) -> dict[str, _Member]:
    """Every array of the file by key, opened; "" is the key of a bare .npy."""
    if not zipguard.is_zip(path):
        return {"": _header(streams.enter_context(path.open("rb")), path.name, path.stat().st_size)}
    try:
        archive = zipguard.check(path)
    except SourceUnreadable as error:
        raise UsageError(error.fact, where=error.where, mend=error.mend) from None
    opened = streams.enter_context(zipfile.ZipFile(path))
    members = {}
    for name, member in archive.members.items():
        stream = streams.enter_context(opened.open(name))
        members[name.removesuffix(".npy")] = _header(stream, f"{path.name}: {name}", member.size)
    if not members:
        raise UsageError("the archive holds no array", where=path.name)
    return members


def _header(stream: IO[bytes], where: str, size: int) -> _Member:
    """The array's header, held against the `size` in bytes of what contains it."""
    from numpy.lib import format as npy

    mend = "Save it with numpy.save or numpy.savez"
    try:
        version = npy.read_magic(stream)
        start = stream.read(2 if version == (1, 0) else 4)
        length = int.from_bytes(start, "little")
        if version not in ((1, 0), (2, 0)) or length > _MAX_HEADER:
            raise UsageError("this version of the npy format is not read", where=where, mend=mend)
        again = io.BytesIO(start + stream.read(length))
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = reader(again)
    except UsageError:
        raise
    except Exception as error:  # numpy parses the header as Python and lets any of the parser's errors out
        raise UsageError(f"not a numpy array: {error}", where=where, mend=mend) from None
    if dtype.hasobject:
        raise UsageError(
            "an array of Python objects is a pickle, which is never executed",
            where=where,
            mend="Save numbers of one dtype and shape, without dtype=object",
        )
    if dtype.kind not in "fiub":
        raise UsageError(f"dtype {dtype} does not hold numbers", where=where, mend=mend)
    if any(extent < 0 for extent in shape):
        raise UsageError(f"shape {shape} is negative", where=where, mend=mend)
    needed = math.prod(shape) * dtype.itemsize + 6 + 2 + len(start) + length
    if needed != size:
        raise UsageError(
            f"shape {shape} of {dtype} needs {needed:,} bytes, and {size:,} are there", where=where
        )
    return _Member(where, stream, shape, dtype, fortran and len(shape) > 1)


def _assign(
    members: dict[str, _Member], wanted: Wanted, file: str
) -> tuple[dict[str, _Member], _Member | None, list[str]]:
    """Arrays by input name, the labels, and keys that are neither."""
    names = [io.name for io in wanted.inputs]
    left = dict(members)
    labels = next((left.pop(key) for key in LABELS if key in left and key not in names), None)
    found = {name: left.pop(name) for name in names if name in left}
    if len(names) == 1 and not found and len(left) == 1:
        found = {names[0]: left.popitem()[1]}
    missing = [name for name in names if name not in found]
    if missing:
        keys = ", ".join(key or "(one unnamed array)" for key in members)
        raise UsageError(
            f"no array for input {missing[0]!r}; the file holds {keys}",
            where=file,
            mend=f"Name the arrays after the model's inputs: {wanted.names}",
        )
    return found, labels, sorted(left)


def _count(members: Mapping[str, _Member], labels: _Member | None) -> int:
    """The number of samples, on which all arrays must agree."""
    everything = [*members.values(), *([labels] if labels is not None else [])]
    for member in everything:
        if not member.shape:
            raise UsageError("a single number has no sample axis", where=member.name)
        if member.shape[0] != everything[0].shape[0]:
            raise UsageError(
                f"{member.shape[0]} samples, and {everything[0].name} has {everything[0].shape[0]}",
                where=member.name,
                mend="Give every array the same number of samples, along the first axis",
            )
    return everything[0].shape[0]


def _labels(member: _Member) -> Array:
    import numpy as np

    shape = member.shape[:1] if member.shape[1:] == (1,) else member.shape
    if member.dtype.kind not in "iu" or len(shape) != 1:
        raise UsageError(
            f"{member.dtype} of shape {member.shape} is not one whole number per sample",
            where=member.name,
            mend="Give class numbers (argmax of one-hot labels)",
        )
    flat = [int(member.row(index).reshape(())) for index in range(shape[0])]
    return np.asarray(flat, np.int64)


def _bound(member: _Member) -> None:
    if member.fortran and math.prod(member.shape) * member.dtype.itemsize > _MAX_FORTRAN:
        raise UsageError(
            "an array in Fortran order of this size would have to be read whole",
            where=member.name,
            mend="Save numpy.ascontiguousarray(array)",
        )
