"""The file of an importance matrix: written as llama-imatrix writes it, read as llama-quantize reads it.

A GGUF file of type "imatrix": for each weight "<name>.in_sum2", the sum of squares of every input column,
(matrices, width), and "<name>.counts", the rows summed up, (matrices, 1). The form before it (".dat"): int32
number of entries; for each, int32 length and name, int32 calls, int32 number of values, float32 values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....sources.gguf.header import Header, Info, encode, entry, read_header, recognises, type_bytes, value
from ....sources.gguf.values import STRING, UINT32
from ....targets.errors import SourceUnreadable, UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SUMS, COUNTS = ".in_sum2", ".counts"
FLOAT32 = 0
"""ggml's type id."""
MAX_BYTES = 1 << 30
MAX_NAME = 1 << 10

_AGAIN = "Collect it again, or leave it out"


@dataclass(frozen=True)
class Sums:
    """What was collected for one weight."""

    values: Array
    """Sums of squared inputs: float32 (matrices, width); matrices: experts, 1 for a plain matrix."""
    counts: Array
    """Rows that were summed up: float32 (matrices,), or one for all."""


def write(
    path: Path, data: Mapping[str, Sums], datasets: Sequence[str], chunk_count: int, chunk_size: int
) -> None:
    """Write what was collected, sorted by name. `datasets` name the text, chunks are windows of tokens."""
    import numpy as np

    entries = (
        entry("general.type", STRING, "imatrix"),
        entry("imatrix.datasets", STRING, list(datasets)),
        entry("imatrix.chunk_count", UINT32, chunk_count),
        entry("imatrix.chunk_size", UINT32, chunk_size),
    )
    infos: list[Info] = []
    arrays: list[bytes] = []
    offset = 0
    for name in sorted(data, key=str.encode):
        sums = data[name]
        for ending, array in ((SUMS, sums.values), (COUNTS, sums.counts.reshape(-1, 1))):
            raw = np.ascontiguousarray(array, "<f4").tobytes()
            infos.append(Info(name + ending, FLOAT32, array.shape, offset))
            arrays.append(raw + bytes(-len(raw) % 32))
            offset += len(arrays[-1])
    with path.open("wb") as stream:
        stream.write(encode(entries, infos))
        stream.writelines(arrays)


def read(path: Path) -> dict[str, Array]:
    """The importance of each column by tensor name: float32, flat, (matrices · width), as ggml takes it.

    Sums divided by counts, and 1 for an expert that saw no row. Raises UsageError naming file and tensor for a
    file of another kind, and for values that are damaged, not finite or negative.
    """
    if not path.is_file():
        raise UsageError("there is no such file", where=f"--imatrix {path}")
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"more than the {MAX_BYTES:,} bytes allowed", where=path.name)
    return _gguf(path) if recognises(path) else dict(_legacy(path))


def _gguf(path: Path) -> dict[str, Array]:
    """`read` for the GGUF form."""
    try:
        header = read_header(path)
    except SourceUnreadable as error:  # it is the request that is wrong, not the model
        raise UsageError(error.fact, where=error.where, mend=error.mend) from None
    kind = header.find("general.type")
    named = value(kind) if kind is not None else "model"
    if named != "imatrix":
        raise UsageError(
            f"a GGUF file of type {named!r}, not an importance matrix",
            where=path.name,
            mend="Name an imatrix file",
        )
    found: dict[str, dict[str, Array]] = {}
    for info, values in _arrays(path, header):
        for ending in (SUMS, COUNTS):
            if info.name.endswith(ending):
                found.setdefault(info.name.removesuffix(ending), {})[ending] = values
    if not found:
        raise UsageError("the importance matrix is empty", where=path.name, mend=_AGAIN)
    return {name: _importance(parts, f"{path.name}: {name}") for name, parts in sorted(found.items())}


def _arrays(path: Path, header: Header) -> Iterator[tuple[Info, Array]]:
    import numpy as np

    with path.open("rb") as stream:
        for info in header.tensors:
            if info.type != FLOAT32:
                raise UsageError("the values are not float32", where=f"{path.name}: {info.name}", mend=_AGAIN)
            stream.seek(header.data + info.offset)
            raw = stream.read(type_bytes(info.type, info.shape))
            yield info, np.frombuffer(raw, "<f4").astype(np.float32)


def _importance(parts: Mapping[str, Array], where: str) -> Array:
    import numpy as np

    if SUMS not in parts or COUNTS not in parts:
        raise UsageError("sums without counts, or counts without sums", where=where, mend=_AGAIN)
    sums, counts = parts[SUMS], parts[COUNTS]
    _check(sums, where)
    _check(counts, where)
    if sums.size % counts.size:
        raise UsageError(f"{sums.size:,} sums for {counts.size:,} counts", where=where, mend=_AGAIN)
    # lround, as llama.cpp does: halves away from zero.
    whole = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]
    rows = sums.reshape(counts.size, -1)
    return np.asarray(np.where(whole > 0, rows / np.maximum(whole, 1), np.float32(1)).ravel())


def _check(values: Array, where: str) -> None:
    import numpy as np

    bad = int(np.sum(~np.isfinite(values)))
    if bad:
        raise UsageError(f"{bad} of {values.size} values are NaN or infinite", where=where, mend=_AGAIN)
    if (values < 0).any():
        raise UsageError("a sum of squares or a count is negative", where=where, mend=_AGAIN)


def _legacy(path: Path) -> Iterator[tuple[str, Array]]:
    """(name, importance) of each entry of a .dat, every length checked against the bytes that are there."""
    import numpy as np

    raw, position = path.read_bytes(), 0

    def take(count: int, where: str) -> bytes:
        nonlocal position
        if not 0 <= count <= len(raw) - position:
            raise UsageError(
                "not an importance matrix, or one that was cut off",
                where=f"{path.name}: {where}",
                mend=_AGAIN,
            )
        position += count
        return raw[position - count : position]

    def whole(where: str) -> int:
        return int.from_bytes(take(4, where), "little", signed=True)

    entries = whole("number of entries")
    if not 0 < entries <= len(raw) // 16:
        raise UsageError(
            "neither a GGUF file nor the older form of an importance matrix", where=path.name, mend=_AGAIN
        )
    for index in range(entries):
        length = whole(f"entry {index}")
        name = take(length if 0 < length <= MAX_NAME else -1, f"entry {index}").decode("utf-8", "replace")
        calls, count = whole(name), whole(name)
        values = np.frombuffer(take(4 * count if count > 0 else -1, name), "<f4").astype(np.float32)
        _check(values, f"{path.name}: {name}")
        yield name, values / np.float32(calls) if calls > 0 else values
