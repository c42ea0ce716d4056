import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.sources.huggingface import safetensors
from modelport.targets.errors import SourceUnreadable


def encode(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str, shape: list[Any], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWO = {"a": entry("F32", [2, 3], 0, 24), "b": entry("I8", [5], 24, 29)}


def test_a_sound_header_gives_facts_and_places(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(encode({"__metadata__": {"format": "pt"}, **TWO}, bytes(29)))
    header = safetensors.read_header(path)
    assert [(t.name, t.dtype, t.shape, t.nbytes) for t in header.tensors] == [
        ("a", "float32", (2, 3), 24),
        ("b", "int8", (5,), 5),
    ]
    assert header.begins["b"] == path.stat().st_size - 5
    assert header.metadata == {"format": "pt"}
    assert safetensors.recognises(path)


BAD: dict[str, tuple[bytes, str]] = {
    "cut in the weights": (encode(TWO, bytes(28)), "b.data_offsets: ends at byte 29 of 28"),
    "cut in the header": (encode(TWO)[:40], "header: a header of"),
    "empty": (b"", "header: a header of 0 bytes in a file of 0"),
    "huge header": (struct.pack("<Q", 1 << 60) + b"{}", "header: a header of 1,152,921,504,606,846,976"),
    "header of 99 MB that is not there": (
        struct.pack("<Q", 99_000_000) + b"{}",
        "header: a header of 99,000,000",
    ),
    "no JSON": (encode(b"{]"), "header: not valid JSON"),
    "a list": (encode(b"[]"), "header: a JSON object is expected"),
    "not UTF-8": (encode(b'{"\xff": 1}'), "header: not UTF-8"),
    "deep": (encode(b'{"a":' + b"[" * 100_000), "header: nested too deeply"),
    "a name twice": (encode(b'{"a": 1, "a": 2}'), "header: the key 'a' stands twice"),
    "overlap": (
        encode({"a": entry("I8", [4], 0, 4), "b": entry("I8", [4], 2, 6)}, bytes(6)),
        "b.*: overlaps",
    ),
    "gap": (
        encode({"a": entry("I8", [4], 0, 4), "b": entry("I8", [4], 6, 10)}, bytes(10)),
        "b.*: leaves a gap of 2",
    ),
    "bytes at the end": (
        encode({"a": entry("I8", [4], 0, 4)}, bytes(5)),
        "1 bytes at the end belong to no tensor",
    ),
    "wrong span": (
        encode({"a": entry("F32", [2, 3], 0, 20)}, bytes(20)),
        "a.data_offsets: shape .* takes 24 bytes",
    ),
    "unknown dtype": (encode({"a": entry("F12", [1], 0, 2)}, bytes(2)), "a.dtype: unknown dtype 'F12'"),
    "negative size": (encode({"a": entry("I8", [-1], 0, 1)}, bytes(1)), "a.shape: a list of sizes"),
    "fraction": (encode({"a": entry("I8", [1.0], 0, 1)}, bytes(1)), "a.shape: a list of sizes"),
    "truth value": (encode({"a": entry("I8", [True], 0, 1)}, bytes(1)), "a.shape: a list of sizes"),
    "overflow": (encode({"a": entry("I8", [1 << 62, 4], 0, 0)}), "a.shape: a list of sizes"),
    "backwards": (encode({"a": entry("I8", [0], 4, 0)}, bytes(4)), "a.data_offsets: two ascending"),
    "missing field": (encode({"a": {"dtype": "I8", "shape": []}}), "a: dtype, shape and data_offsets"),
    "metadata of another type": (encode({"__metadata__": {"a": 1}}), "__metadata__: an object of texts"),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_by_file_and_field(tmp_path: Path, content: tuple[bytes, str]) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content[0])
    with pytest.raises(SourceUnreadable, match=f"m.safetensors: {content[1]}"):
        safetensors.read_header(path)


def test_an_unreadable_path_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="cannot be read"):
        safetensors.read_header(tmp_path / "nothing")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*safetensors.DTYPES, "F4"]) | JSON,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | JSON,
    }
)


@settings(max_examples=150, deadline=None)
@given(header=st.dictionaries(st.text(max_size=4), ENTRY | JSON, max_size=3), data=st.binary(max_size=64))
def test_any_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: Any, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(encode(header, data))
    try:
        found = safetensors.read_header(path)
    except SourceUnreadable:
        return
    assert sum(tensor.nbytes for tensor in found.tensors) == len(data)


@settings(max_examples=150, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]]
) -> None:
    content = bytearray(encode(TWO, bytes(29)))
    for position, byte in edits:
        content[position % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(SourceUnreadable):
        safetensors.read_header(path)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_files_that_the_safetensors_package_writes_are_accepted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    import numpy as np
    from safetensors.numpy import save

    kinds = ["float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64"]
    shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
    tensors = data.draw(
        st.dictionaries(st.text(max_size=6), st.tuples(st.sampled_from(kinds), shapes), max_size=5)
    )
    tensors.pop("__metadata__", None)
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in tensors.items()}
    path = tmp_path_factory.getbasetemp() / "real.safetensors"
    path.write_bytes(save(arrays))
    found = {t.name: (t.dtype, t.shape) for t in safetensors.read_header(path).tensors}
    assert found == tensors
