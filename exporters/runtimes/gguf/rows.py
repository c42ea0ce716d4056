"""Tensors of the checkpoint as slabs of rows, in the order that the file wants them, read without copies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....sources.gguf import header
from ....sources.place import Place
from ....targets.errors import SourceUnreadable, Unsupported
from .blueprint import Tensor

ITEM_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}

_VECTORS = 1024
"""Buffers that one preadv takes (IOV_MAX)."""
_BAND = 8 << 20
"""Bytes of neighbouring columns that are read at a time, so that a matrix is not read in crumbs."""

_AGAIN = "Download the model again, with all its files"


@dataclass(frozen=True)
class Bound:
    """A tensor of the file, with the places in the checkpoint that its rows come from."""

    tensor: Tensor
    places: tuple[Place, ...]

    @property
    def rows(self) -> int:
        """Rows of all its matrices together."""
        return self.tensor.elements // self.width

    @property
    def width(self) -> int:
        """Values in a row; a permuted vector counts as rows of one."""
        return 1 if self.tensor.transform == "permute" and len(self.tensor.shape) == 1 else self.tensor.width

    @property
    def matrix_rows(self) -> int:
        """Rows of one matrix: of each expert, where there are several."""
        return self.tensor.shape[-2] if len(self.tensor.shape) > 1 else self.rows

    @property
    def stored(self) -> str:
        """The dtype of its first part, or "float32" for computed values."""
        return self.places[0].dtype if self.places else "float32"

    @property
    def where(self) -> str:
        """File and names, for an error."""
        if not self.places:
            return "config.json"
        name = self.tensor.parts[0] + (" ..." if len(self.tensor.parts) > 1 else "")
        return f"{self.places[0].file.name}: {name}"


@dataclass(frozen=True)
class Slab:
    """Neighbouring rows of one tensor, all from one part: what is read, quantized and written at a time."""

    bound: Bound
    first: int
    """First row in the tensor."""
    rows: int
    part: int
    skipped: int
    """Rows of the tensor that come from the parts before."""

    @property
    def dtype(self) -> str:
        """What `Files.read` leaves in the buffer."""
        return self.bound.places[self.part].dtype if self.bound.places else "float32"

    @property
    def nbytes(self) -> int:
        """Bytes that `Files.read` leaves in the buffer."""
        return self.rows * row_bytes(self.dtype, self.bound.width)


def row_bytes(dtype: str, width: int) -> int:
    """Bytes of a row as it is stored, plain or in ggml's blocks."""
    if dtype in ITEM_BYTES:
        return ITEM_BYTES[dtype] * width
    return header.type_bytes(type_id(dtype), (width,))


def target_bytes(kind: int, width: int) -> int:
    """Bytes of a row in a ggml type."""
    return header.type_bytes(kind, (width,))


def type_id(dtype: str) -> int:
    """ggml's id of a dtype by modelport's name. Raises Unsupported for one that ggml does not know."""
    for number, (name, _, _) in header.TYPES.items():
        if name == dtype:
            return number
    raise Unsupported(
        f"weights stored as {dtype} cannot be quantized", mend="Start from the original weights"
    )


def bind(tensors: Iterable[Tensor], places: Mapping[str, Place]) -> tuple[Bound, ...]:
    """Each tensor with its places. Raises SourceUnreadable for a part that is missing or has another size."""
    bound = []
    for tensor in tensors:
        missing = [part for part in tensor.parts if part not in places]
        if missing:
            fact = f"the weight {missing[0]!r}, which {tensor.name} is made of, is missing"
            raise SourceUnreadable(fact, where="the checkpoint", mend=_AGAIN)
        one = Bound(tensor, tuple(places[part] for part in tensor.parts))
        for place, part in zip(one.places, tensor.parts, strict=True):
            _check_shape(one, place, part)
        found = sum(_elements(place.shape) for place in one.places) if one.places else len(tensor.values)
        if found != tensor.elements:
            fact = f"{found:,} values, where {tensor.name} has {tensor.elements:,} {list(tensor.shape)}"
            raise SourceUnreadable(fact, where=one.where, mend=_AGAIN)
        bound.append(one)
    return tuple(bound)


def _check_shape(bound: Bound, place: Place, part: str) -> None:
    tensor = bound.tensor
    kind = type_id(place.dtype)
    blocks = place.dtype not in ITEM_BYTES
    if blocks and tensor.transform != "keep":
        raise Unsupported(
            f"stored as {place.dtype}, whose blocks cannot be rearranged", where=f"{place.file.name}: {part}"
        )
    if tensor.transform == "transpose":
        fits = len(place.shape) == 2 and len(tensor.shape) == 2 and place.shape[0] == tensor.width
    elif tensor.transform == "permute":
        per_head = bound.rows // max(tensor.heads, 1)
        whole = per_head * tensor.heads == bound.rows and per_head % 2 == 0
        fits = tensor.heads > 0 and whole and len(bound.places) == 1
    else:
        fits = place.shape[-1:] == tensor.shape[-1:] or len(tensor.shape) == 1
    if not fits or place.nbytes != header.type_bytes(kind, place.shape):
        fact = f"shape {list(place.shape)}, which {tensor.name} {list(tensor.shape)} cannot be made of"
        raise SourceUnreadable(fact, where=f"{place.file.name}: {part}", mend=_AGAIN)


def _elements(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def fewest_rows(bound: Bound) -> int:
    """The rows that a slab cannot be cut below: permuted ones come in pairs."""
    return 2 if bound.tensor.transform == "permute" else 1


def slabs(bound: Bound, largest: int, *, row_cost: int, split_matrices: bool) -> Iterator[Slab]:
    """The tensor's rows in order, in slabs of at most `largest` bytes where a row costs `row_cost` of them.

    A slab never crosses from one part to the next, nor, with `split_matrices`, from one expert's matrix to
    the next. Rows that are larger than `largest` come `fewest_rows` at a time.
    """
    fewest = fewest_rows(bound)
    step = max(largest // row_cost // fewest, 1) * fewest
    skipped = 0
    sizes = [_elements(place.shape) // bound.width for place in bound.places] or [bound.rows]
    for part, rows in enumerate(sizes):
        first = skipped
        while first < skipped + rows:
            end = min(first + step, skipped + rows)
            if split_matrices:
                end = min(end, (first // bound.matrix_rows + 1) * bound.matrix_rows)
            yield Slab(bound, first, end - first, part, skipped)
            first = end
        skipped += rows


@dataclass
class Files:
    """Open files of a checkpoint, from which one thread reads slabs."""

    descriptors: dict[Path, int] = field(default_factory=dict)
    _columns: bytearray = field(default_factory=bytearray)
    _band: tuple[Place | None, int, int] = (None, 0, 0)
    """What lies in `_columns`: the place, its first column and how many."""

    def close(self) -> None:
        """Close every file."""
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])

    def read(self, slab: Slab, buffer: memoryview) -> None:
        """Fill the front of `buffer` (bytes) with the slab's rows, in the dtype in which they are stored.

        Raises SourceUnreadable when the file ends early.
        """
        bound = slab.bound
        if not bound.places:
            self._compute(slab, buffer)
            return
        place = bound.places[slab.part]
        nbytes = row_bytes(place.dtype, bound.width)
        first = slab.first - slab.skipped
        if bound.tensor.transform == "permute":
            self._read_permuted(slab, place, buffer, nbytes)
        elif bound.tensor.transform == "transpose":
            self._read_columns(slab, place, buffer, first)
        else:
            self._fill(place, place.begin + first * nbytes, [buffer[: slab.rows * nbytes]])

    def _compute(self, slab: Slab, buffer: memoryview) -> None:
        import numpy as np

        values = np.asarray(slab.bound.tensor.values, dtype=np.float32)
        begin = slab.first * slab.bound.width
        data = values[begin : begin + slab.rows * slab.bound.width].tobytes()
        buffer[: len(data)] = data

    def _read_permuted(self, slab: Slab, place: Place, buffer: memoryview, nbytes: int) -> None:
        """Row 2 j + k of a head is row k (n / 2) + j of it in the checkpoint: two runs, each to every other row."""
        size = slab.bound.rows // slab.bound.tensor.heads
        first, end = slab.first, slab.first + slab.rows
        while first < end:
            head = first // size
            stop = min(end, (head + 1) * size)
            for half in (0, 1):
                row = head * size + half * (size // 2) + (first - head * size) // 2
                targets = range(first - slab.first + half, stop - slab.first, 2)
                views = [buffer[at * nbytes : (at + 1) * nbytes] for at in targets]
                self._fill(place, place.begin + row * nbytes, views)
            first = stop

    def _read_columns(self, slab: Slab, place: Place, buffer: memoryview, first: int) -> None:
        """Rows of the transposed matrix are columns of the stored one, of which a band is kept."""
        import numpy as np

        height, kind = place.shape[0], np.dtype(f"u{ITEM_BYTES[place.dtype]}")
        held, begin, count = self._band
        if held != place or not begin <= first <= first + slab.rows <= begin + count:
            begin, count = self._read_band(place, first, slab.rows)
        band = np.frombuffer(self._columns, kind, height * count).reshape(height, count)
        target = np.frombuffer(buffer, kind, height * slab.rows).reshape(slab.rows, height)
        target[:] = band[:, first - begin : first - begin + slab.rows].T

    def _read_band(self, place: Place, first: int, least: int) -> tuple[int, int]:
        """Read columns from `first` on, at least so many; gives the first and how many they are."""
        item = ITEM_BYTES[place.dtype]
        height, width = place.shape
        count = min(max(least, _BAND // (height * item)), width - first)
        piece = count * item
        if len(self._columns) < height * piece:
            self._columns = bytearray(height * piece)
        columns = memoryview(self._columns)
        for row in range(height):
            begin = place.begin + (row * width + first) * item
            self._fill(place, begin, [columns[row * piece : (row + 1) * piece]])
        self._band = (place, first, count)
        return first, count

    def _fill(self, place: Place, begin: int, views: list[memoryview[Any]]) -> None:
        """Read from `begin` on into the views, one after the other."""
        descriptor = self._open(place.file)
        while views:
            some = views[:_VECTORS]
            wanted = sum(view.nbytes for view in some)
            found = os.preadv(descriptor, some, begin)
            if found == 0:
                fact = f"the file ends at byte {begin:,}, before its tensors do"
                raise SourceUnreadable(fact, where=place.file.name, mend=_AGAIN)
            begin += found
            if found == wanted:
                views = views[_VECTORS:]
                continue
            while found >= views[0].nbytes:
                found -= views.pop(0).nbytes
            views[0] = views[0][found:]

    def _open(self, file: Path) -> int:
        if file not in self.descriptors:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            self.descriptors[file] = descriptor
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return self.descriptors[file]
