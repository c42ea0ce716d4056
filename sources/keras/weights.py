"""The weights inside a Keras archive: HDF5 headers are walked link by link, and no weight is read."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from ...targets.errors import MissingExtra, SourceUnreadable
from ...targets.facts import DTYPE_BITS
from ..files.zipguard import Archive

MEMBER = "model.weights.h5"
MAX_OBJECTS = 200_000
MAX_DEPTH = 64
MAX_INFLATED = 4 << 30
"""A deflated member is inflated into memory; Keras itself stores it plain."""

_AGAIN = "Save it again with model.save('model.keras') of Keras 3"


@dataclass(frozen=True)
class Tensor:
    """One stored tensor: its path inside the HDF5 file, dtype and shape."""

    path: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return int(self.elements * max(DTYPE_BITS[self.dtype], 8)) // 8


Tensors = tuple[Tensor, ...]


def check(archive: Archive) -> Tensors:
    """Every tensor of the archive's weights, in the file's order, after its header was checked.

    Refused with `SourceUnreadable`: links (external, soft, or two to one object), tensors stored in other
    files or made of other datasets, sizes that differ from dtype × shape, unknown dtypes. `MissingExtra`
    when h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtra(
            "h5py is needed to check the weights of a Keras archive",
            where=f"{archive.path.name}: {MEMBER}",
            mend="pip install 'modelport[android]'",
        ) from None
    where = f"{archive.path.name}: {MEMBER}"
    with _opened(archive) as stream:
        try:
            with h5py.File(stream, "r") as file:
                return tuple(_walk(h5py, file, where, stream.seek(0, io.SEEK_END)))
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
            # What h5py raises for damage depends on where it meets it.
            raise SourceUnreadable(f"damaged: {str(error)[:200]}", where=where, mend=_AGAIN) from None


def model_weights(tensors: Tensors) -> Tensors:
    """Those of the model itself: without optimizer state and the seeds of random generators."""
    return tuple(
        tensor
        for tensor in tensors
        if not tensor.path.startswith("optimizer/")
        and not ("seed_generator" in tensor.path and tensor.dtype in ("uint32", "int64", "int32"))
    )


def _walk(h5py: Any, file: Any, where: str, size: int) -> Iterator[Tensor]:
    waiting: deque[tuple[Any, str, int]] = deque([(file, "", 0)])
    seen: set[Any] = set()
    total = 0
    while waiting:
        group, path, depth = waiting.popleft()
        if depth > MAX_DEPTH:
            raise SourceUnreadable(f"groups are nested deeper than {MAX_DEPTH}", where=f"{where}: {path}")
        for name in group:
            place = f"{path}/{name}" if path else name
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                fact = f"it is a {type(link).__name__} to another place"
                raise SourceUnreadable(fact, where=f"{where}: {place}", mend=_AGAIN)
            item = group[name]
            total += 1
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or total > MAX_OBJECTS:
                fact = (
                    "two names lead to one object" if address in seen else f"more than {MAX_OBJECTS} objects"
                )
                raise SourceUnreadable(fact, where=f"{where}: {place}", mend=_AGAIN)
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append((item, place, depth + 1))
            else:
                yield _tensor(h5py, item, place, where, size)


def _tensor(h5py: Any, item: Any, path: str, where: str, size: int) -> Tensor:
    place = f"{where}: {path}"
    if not isinstance(item, h5py.Dataset):
        raise SourceUnreadable("neither group nor dataset", where=place, mend=_AGAIN)
    if item.external or item.is_virtual:
        raise SourceUnreadable("its bytes lie in another file", where=place, mend=_AGAIN)
    # Keras stores bfloat16 as two-byte opaque values, with the name in an attribute.
    dtype = str(item.dtype)
    if item.dtype.kind == "V" and item.dtype.itemsize in (1, 2):
        dtype = _text(item.attrs.get("dtype", ""))
    if DTYPE_BITS.get(dtype, 0) == 0 or item.shape is None:
        raise SourceUnreadable(f"the data type {dtype[:60]!r} is not known", where=place, mend=_AGAIN)
    shape = tuple(int(length) for length in item.shape)
    needed, stored = prod(shape) * item.dtype.itemsize, item.id.get_storage_size()
    offset = item.id.get_offset() or 0
    if stored != needed or offset + needed > size:
        fact = f"{stored:,} bytes at {offset:,} of {size:,}, where {dtype} {list(shape)} needs {needed:,}"
        raise SourceUnreadable(fact, where=place, mend=_AGAIN)
    return Tensor(path, dtype, shape)


def _text(value: Any) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


@contextmanager
def _opened(archive: Archive) -> Iterator[io.IOBase]:
    """The member as a seekable stream: a window on the archive where it is stored, inflated where not."""
    member = archive.members[MEMBER]
    if not member.stored:
        yield io.BytesIO(archive.read(MEMBER, MAX_INFLATED))
        return
    with archive.path.open("rb") as stream:
        yield _Window(stream, member.offset, member.size)


class _Window(io.RawIOBase):
    """The bytes `start` to `start + size` of a stream, as a read-only file of their own."""

    def __init__(self, stream: io.BufferedReader, start: int, size: int) -> None:
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        left = max(0, min(len(buffer), self._size - self._at))
        self._stream.seek(self._start + self._at)
        data = self._stream.read(left)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
