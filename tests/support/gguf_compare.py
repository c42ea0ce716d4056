"""Where two GGUF files differ, and importance matrices made up for tests."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf: Any = pytest.importorskip("gguf")


def compare(ours: Path, theirs: Path) -> str | None:
    """None where two files are equal byte for byte, else the first difference: of keys, tensor lists or data."""
    if filecmp.cmp(ours, theirs, shallow=False):
        return None
    left, right = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    return (
        _keys(left, right)
        or _lists(left, right)
        or _data(left, right)
        or f"same keys and tensors, other bytes between them: {ours.stat().st_size} and {theirs.stat().st_size} bytes"
    )


def _keys(left: Any, right: Any) -> str | None:
    names, others = list(left.fields), list(right.fields)
    if sorted(names) != sorted(others):
        more, fewer = sorted(set(names) - set(others)), sorted(set(others) - set(names))
        return f"keys: only ours {more}, only theirs {fewer}"
    for name in names:
        ours, theirs = left.fields[name], right.fields[name]
        if ours.types != theirs.types:
            return f"key {name}: type {ours.types} and {theirs.types}"
        if b"".join(bytes(p) for p in ours.parts) != b"".join(bytes(p) for p in theirs.parts):
            return f"key {name}: {_value(ours)} and {_value(theirs)}{_place(ours, theirs)}"
    for ours, theirs in zip(names, others, strict=True):
        if ours != theirs:
            return f"order of keys: {ours} where theirs has {theirs}"
    return None


def _value(field: Any) -> str:
    text = repr(field.contents())
    return text if len(text) < 200 else f"{text[:120]}... ({len(text)} characters)"


def _place(ours: Any, theirs: Any) -> str:
    """The first entry in which two arrays differ."""
    mine, other = ours.contents(), theirs.contents()
    if not isinstance(mine, list):
        return ""
    if len(mine) != len(other):
        return f"; {len(mine)} and {len(other)} entries"
    at = next(n for n in range(len(mine)) if mine[n] != other[n])
    return f"; entry {at}: {mine[at]!r} and {other[at]!r}"


def _lists(left: Any, right: Any) -> str | None:
    ours, theirs = (
        [(t.name, t.tensor_type.name, t.shape.tolist()) for t in f.tensors] for f in (left, right)
    )
    if ours == theirs:
        return None
    missing, extra = ({x[0] for x in a} - {x[0] for x in b} for a, b in ((theirs, ours), (ours, theirs)))
    if missing or extra:
        return f"tensors: only ours {sorted(extra)}, only theirs {sorted(missing)}"
    number = next(n for n in range(len(ours)) if ours[n] != theirs[n])
    return f"tensor {number}: {ours[number]} and {theirs[number]}"


def _data(left: Any, right: Any) -> str | None:
    wrong = []
    for ours, theirs in zip(left.tensors, right.tensors, strict=True):
        a, b = ours.data.reshape(-1).view(np.uint8), theirs.data.reshape(-1).view(np.uint8)
        if ours.data_offset - left.data_offset != theirs.data_offset - right.data_offset:
            return f"tensor {ours.name}: at {ours.data_offset} and {theirs.data_offset}"
        if not np.array_equal(a, b):
            at = np.flatnonzero(a != b)
            wrong.append(
                f"{ours.name} ({ours.tensor_type.name}): {at.size} of {a.size} bytes, the first at {at[0]}"
            )
    return f"data of {len(wrong)} tensors, the first {wrong[0]}" if wrong else None


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    """Every tensor's type and bytes by name, for files that the oracle cannot make whole."""
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def write_imatrix(model: Path, out: Path, seed: int = 0) -> Path:
    """A made-up importance matrix for a 16-bit GGUF, in llama-imatrix's format: its names, but for the two ends."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(out, arch="")
    writer.kv_data[0].clear()  # llama-imatrix writes no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["made-up.txt"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in sorted(gguf.GGUFReader(model).tensors, key=lambda t: t.name):
        if len(tensor.shape) < 2 or tensor.name in (
            "token_embd.weight",
            "output.weight",
            "position_embd.weight",
        ):
            continue
        width, stacked = int(tensor.shape[0]), int(np.prod(tensor.shape[2:]))  # experts
        sums = 2048 * np.exp(1.5 * rng.standard_normal((stacked, width))).astype(np.float32)
        writer.add_tensor(f"{tensor.name}.in_sum2", sums)
        writer.add_tensor(f"{tensor.name}.counts", np.full((stacked, 1), 2048, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
