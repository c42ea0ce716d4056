"""The GGUF header: what is written reads back, and every kind of damage is one error that names its field."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gguf_files
from modelport.sources.gguf import values
from modelport.sources.gguf.header import Info, encode, entry, read_header, type_bytes, value
from modelport.sources.gguf.types import TYPES
from modelport.targets.errors import SourceUnreadable
from modelport.targets.facts import BLOCK_BITS, DTYPE_BITS


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def name(text: str) -> bytes:
    return values.text(text)


def raw(entries: list[bytes] | None = None, tensors: list[bytes] | None = None, data: bytes = b"") -> bytes:
    """A file from raw entries and tensor descriptions, whatever they say."""
    entries, tensors = entries or [], tensors or []
    front = b"GGUF" + u32(3) + u64(len(tensors)) + u64(len(entries)) + b"".join(entries + tensors)
    return front + bytes(-len(front) % 32) + data


def tensor(title: str = "a", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return name(title) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def refused(folder: Path, content: bytes, words: str) -> SourceUnreadable:
    path = folder / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(SourceUnreadable, match=words) as caught:
        read_header(path)
    assert caught.value.where.startswith("m.gguf")
    return caught.value


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    entries = [
        entry("general.architecture", values.STRING, "llama"),
        entry("small", values.INT8, -3),
        entry("large", values.UINT64, 1 << 60),
        entry("ratio", values.FLOAT64, 0.1),
        entry("flag", values.BOOL, True),
        entry("tokens", values.STRING, ["<s>", "", "日本", "\udcff"]),
        entry("types", values.INT32, [1, 2, -3]),
        entry("flags", values.BOOL, [True, False]),
        entry("none", values.FLOAT32, []),
    ]
    infos = [Info("a", 12, (3, 256), 0), Info("b.weight", 0, (5,), 448), Info("c", 1, (2, 3, 4, 5), 480)]
    front = encode(entries, infos)
    assert len(front) % 32 == 0
    path = tmp_path / "m.gguf"
    path.write_bytes(front + bytes(720))
    header = read_header(path)
    assert header.entries == tuple(entries)
    assert header.tensors == tuple(infos)
    assert (header.version, header.alignment, header.data, header.trailing) == (3, 32, len(front), 0)
    assert [value(found) for found in header.entries] == [
        "llama", -3, 1 << 60, 0.1, True, ["<s>", "", "日本", "\udcff"], [1, 2, -3], [True, False], []
    ]  # fmt: skip
    assert header.find("tokens").items == 4
    assert header.find("small").items is None
    assert header.find("absent") is None


def test_axes_of_one_in_front_are_left_out_as_ggml_does() -> None:
    assert encode([], [Info("a", 0, (1, 1, 7), 0)]) == encode([], [Info("a", 0, (7,), 0)])
    assert encode([], [Info("a", 0, (1, 7, 1), 0)]) != encode([], [Info("a", 0, (7,), 0)])


def test_the_last_padding_may_be_missing_and_more_bytes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for data, trailing in ((128, 0), (100, 0), (160, 32)):
        path.write_bytes(raw(tensors=[tensor(dims=(25,))], data=bytes(data)))
        assert read_header(path).trailing == trailing


def test_another_alignment_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    infos = [Info("a", 0, (8,), 0), Info("b", 0, (8,), 64)]
    front = encode([entry("general.alignment", values.UINT32, 64)], infos, 64)
    path.write_bytes(front + bytes(128))
    header = read_header(path)
    assert (header.alignment, header.data, header.tensors) == (64, len(front), tuple(infos))


def test_types_agree_with_the_bits_that_targets_count_in() -> None:
    bits = {**DTYPE_BITS, **BLOCK_BITS}
    for title, elements, size in TYPES.values():
        assert bits[title] == 8 * size / elements
    assert set(BLOCK_BITS) == {title for title, elements, _ in TYPES.values() if elements > 1}
    assert type_bytes(14, (5, 512)) == 5 * 2 * 210


KEY = name("k")
BAD_ENTRIES = {
    "truncated value": (KEY + u32(4) + b"\0\0", "m.gguf: k: 4 bytes are declared"),
    "array of 2^60 numbers": (KEY + u32(9) + u32(4) + u64(1 << 60), "k: 4,611,686,018,427,387,904 bytes"),
    "array of 2^60 strings": (KEY + u32(9) + u32(8) + u64(1 << 60), "k: .* strings"),
    "array of 2^63 bytes": (KEY + u32(9) + u32(0) + u64((1 << 64) - 1), "bytes are declared"),
    "array of arrays": (KEY + u32(9) + u32(9) + u64(1), "k: an array of arrays"),
    "unknown type": (KEY + u32(13) + bytes(8), "k: unknown value type 13"),
    "unknown item type": (KEY + u32(9) + u32(77) + u64(0), "k: unknown value type 77"),
    "string beyond the file": (KEY + u32(8) + u64(1 << 62) + b"ab", "k: .*bytes are declared"),
    "string in an array beyond the file": (
        KEY + u32(9) + u32(8) + u64(3) + name("a") + u64(1 << 63) + bytes(40),
        "k: string 2 of 3 reaches beyond",
    ),
    "last string beyond the file": (
        KEY + u32(9) + u32(8) + u64(1) + u64(1 << 63) + bytes(40),
        "k: .*bytes are declared",
    ),
    "neither true nor false": (KEY + u32(7) + b"\2", "k: a bool is neither"),
    "empty key": (u64(0) + u32(0) + bytes(2), "key 0: a length of 0"),
    "endless key": (u64(1 << 62) + bytes(6), "key 0: a length of"),
    "key beyond the file": (u64(1 << 15) + b"abcdefgh", "key 0: 32,768 bytes are declared"),
    "key that is no text": (u64(2) + b"\xff\xfe" + u32(0) + b"\0", "key 0: is not UTF-8"),
    "key with an escape sequence": (name("a\x1b[2J") + u32(0) + b"\0", "key 0: .*control characters"),
    "alignment of 0": (name("general.alignment") + u32(4) + u32(0), "general.alignment: 0 is no power"),
    "alignment of 48": (name("general.alignment") + u32(4) + u32(48), "general.alignment: 48 is no power"),
    "alignment as text": (name("general.alignment") + name("32"), "general.alignment: .*"),
    "alignment of another type": (
        name("general.alignment") + u32(10) + u64(32),
        "general.alignment: a uint32 is expected, not uint64",
    ),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries_are_refused_by_name(tmp_path: Path, case: str) -> None:
    content, words = BAD_ENTRIES[case]
    front = b"GGUF" + u32(3) + u64(0) + u64(1) + content
    refused(tmp_path, front, words)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    once = KEY + u32(0) + b"\1"
    refused(tmp_path, raw([once, once]), "m.gguf: k: this key stands twice")


BAD_TENSORS = {
    "unknown type": ([tensor(kind=5)], "m.gguf: a: type: unknown tensor type 5"),
    "type of the far future": ([tensor(kind=(1 << 32) - 1)], "unknown tensor type 4294967295"),
    "five axes": ([tensor(dims=(1, 1, 1, 1, 1))], "a: 5 axes"),
    "endless axes": ([name("a") + u32(1 << 31)], "tensor count: 1 do not fit|a: 2147483648 axes"),
    "axis of 0": ([tensor(dims=(4, 0))], "a: shape: a size is not between"),
    "axes whose product overflows": ([tensor(dims=(1 << 40, 1 << 40, 1 << 40))], "a: ends at byte"),
    "huge axis": ([tensor(dims=((1 << 64) - 32,))], "a: shape: a size is not between"),
    "row that is no whole block": ([tensor(dims=(100, 2), kind=8)], "rows of 100 values are no whole"),
    "beyond the file": ([tensor(dims=(1000,))], "m.gguf: a: ends at byte 4,000 of the 256"),
    "unaligned": ([tensor("a"), tensor("b", offset=129)], "b: offset: 129 is no multiple"),
    "overlapping": ([tensor("a"), tensor("b", offset=96)], "b: offset: overlaps"),
    "on top of the first": ([tensor("a"), tensor("b", offset=0)], "b: offset: overlaps"),
    "gap": ([tensor("a"), tensor("b", offset=160)], "b: offset: 32 bytes before it belong"),
    "offset of 2^63": ([tensor("a"), tensor("b", offset=1 << 63)], "b: offset: .* belong to no tensor"),
    "twice": ([tensor("a"), tensor("a", offset=128)], "m.gguf: a: this tensor stands twice"),
    "long name": ([tensor("n" * 64)], "name of tensor 0: a length of 64"),
    "no name": ([tensor("")], "name of tensor 0: a length of 0"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors_are_refused_by_name(tmp_path: Path, case: str) -> None:
    tensors, words = BAD_TENSORS[case]
    refused(tmp_path, raw(tensors=tensors, data=bytes(256)), words)


def test_version_magic_and_counts_are_checked(tmp_path: Path) -> None:
    good = raw(tensors=[tensor()], data=bytes(128))
    refused(tmp_path, b"", "the file is empty")
    refused(tmp_path, b"GGUF", "version: 4 bytes are declared")
    refused(tmp_path, b"GGML" + good[4:], "magic: the file begins b'GGML'")
    refused(tmp_path, good[:4] + u32(1) + good[8:], "version: version 1 is not 2 or 3")
    refused(tmp_path, good[:4] + struct.pack(">I", 3) + good[8:], "version: the file is big-endian")
    refused(tmp_path, good[:8] + u64(1 << 62) + good[16:], "tensor count: .* are more than")
    refused(tmp_path, good[:8] + u64(5000) + good[16:], "tensor count: 5,000 do not fit")
    refused(tmp_path, good[:16] + u64(1 << 62) + good[24:], "entry count: .* are more than")
    refused(tmp_path, good[:16] + u64(5000) + good[24:], "entry count: 5,000 do not fit")


def test_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    good = raw(tensors=[tensor()], data=bytes(128))
    path.write_bytes(good[:4] + u32(2) + good[8:])
    assert read_header(path).version == 2


def test_what_cannot_be_opened_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="cannot be read"):
        read_header(tmp_path)


def test_metadata_beyond_its_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    size = 300 << 20
    with path.open("wb") as stream:
        stream.write(b"GGUF" + u32(3) + u64(0) + u64(1) + KEY + u32(9) + u32(0) + u64(size))
        stream.truncate(stream.tell() + size)
    tracemalloc.start()
    with pytest.raises(SourceUnreadable, match="k: the metadata is larger"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_real_vocabulary_takes_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tokens = [f"token{index}" for index in range(256_000)]
    keys = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": tokens, "scores": [0.5] * 256_000}
    path.write_bytes(encode(gguf_files.entries(keys), []))
    begin = time.perf_counter()
    assert read_header(path).find("tokenizer.ggml.tokens").items == 256_000
    # 0.1 s on a quiet machine.
    assert time.perf_counter() - begin < 2


def test_an_array_of_empty_strings_is_counted_against_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    items = 5_000_000
    with path.open("wb") as stream:
        stream.write(b"GGUF" + u32(3) + u64(0) + u64(1) + KEY + u32(9) + u32(8) + u64(items))
        stream.truncate(stream.tell() + 8 * items)
    with pytest.raises(SourceUnreadable, match="k: 5,000,000 strings"):
        read_header(path)


SMALL = gguf_files.tensors("q4_k", 1)
GOOD = encode(gguf_files.entries(gguf_files.LLAMA), gguf_files.infos(SMALL))


def damaged(path: Path, data: st.DataObject, most: int = 4) -> None:
    """A good file, cut at some byte, up to `most` of its bytes replaced, and zeros behind it or not."""
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(0, most))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    with path.open("wb") as stream:
        stream.write(content[:cut])
        stream.truncate(cut + data.draw(st.sampled_from([0, 1, 400_000])))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_truncation_and_no_flipped_byte_does_more_than_raise_the_one_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "m.gguf"
    damaged(path, data)
    tracemalloc.start()
    begin, where = time.perf_counter(), "m.gguf"
    tensors: tuple[Info, ...] = ()
    try:
        header = read_header(path)
        tensors = header.tensors
    except SourceUnreadable as error:
        where = error.where
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert where.startswith("m.gguf")
    for info in tensors:
        assert header.data + info.offset + type_bytes(info.type, info.shape) <= path.stat().st_size
    assert peak < 4 << 20
    assert time.perf_counter() - begin < 2


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_passes_is_read_by_ggml_too(tmp_path: Path, data: st.DataObject) -> None:
    import ctypes

    from modelport.exporters.runtimes.gguf import library

    class Parameters(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))

    path = tmp_path / "m.gguf"
    damaged(path, data, most=1)
    with path.open("ab") as stream:
        stream.truncate(len(GOOD) + 400_000)
    try:
        header = read_header(path)
    except SourceUnreadable:
        return
    ggml = library.ggml()
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, Parameters]
    ggml.gguf_get_n_tensors.argtypes = ggml.gguf_free.argtypes = [ctypes.c_void_p]
    context = ggml.gguf_init_from_file(str(path).encode(), Parameters(True, None))
    assert context
    assert ggml.gguf_get_n_tensors(context) == len(header.tensors)
    ggml.gguf_free(context)
