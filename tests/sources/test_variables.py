"""TensorFlow's checkpoint index: read as TensorFlow wrote it, and refused where it does not hold together."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.sources.saved_model import variables
from modelport.targets.errors import SourceUnreadable
from wire import field, number, varint


def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """One table block with keys stored whole and a single restart point, and its trailer."""
    body = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in pairs)
    body += struct.pack("<II", 0, 1)
    crc = variables.crc32c(body + b"\0")
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return body + b"\0" + struct.pack("<I", masked)


def table(pairs: list[tuple[bytes, bytes]]) -> bytes:
    data = block(pairs)
    handle = varint(0) + varint(len(data) - 5)
    index = block([(b"zzz", handle)])
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def entry(shape: list[int], offset: int, size: int, dtype: int = 1, shard: int = 0) -> bytes:
    dims = b"".join(field(2, number(1, dim)) for dim in shape)
    return number(1, dtype) + field(2, dims) + number(3, shard) + number(4, offset) + number(5, size)


HEADER = (b"", number(1, 1))
GOOD = [HEADER, (b"a/kernel", entry([2, 3], 0, 24)), (b"b", entry([], 24, 8, 9))]


def write(root: Path, data: bytes, stored: int = 32) -> Path:
    (root / "variables").mkdir(exist_ok=True)
    (root / "variables/variables.index").write_bytes(data)
    (root / "variables/variables.data-00000-of-00001").write_bytes(bytes(stored))
    return root


def test_entries_come_back_with_dtype_shape_and_place(tmp_path: Path) -> None:
    entries, files = variables.read_index(write(tmp_path, table(GOOD)))
    found = {key: (item.dtype, item.shape, item.offset, item.size) for key, item in entries.items()}
    assert found == {"a/kernel": ("float32", (2, 3), 0, 24), "b": ("int64", (), 24, 8)}
    assert [file.name for file in files] == ["variables.index", "variables.data-00000-of-00001"]


def test_the_checksum_is_crc32c() -> None:
    assert variables.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("pairs", "fact"),
    [
        ([HEADER, (b"a", entry([2, 3], 0, 20))], "20 bytes where float32 .* needs 24"),
        ([HEADER, (b"a", entry([2, 3], 16, 24))], "which has 32"),
        ([HEADER, (b"a", entry([2, 3], -8, 24))], "which has 32"),
        ([HEADER, (b"a", entry([1 << 60, 1 << 60], 0, 24))], "needs"),
        ([HEADER, (b"a", entry([-2, -3], 0, 24))], "not known in full"),
        ([HEADER, (b"a", entry([6], 0, 24)), (b"b", entry([6], 8, 24))], "overlaps 'a'"),
        ([HEADER, (b"a", entry([6], 0, 24, dtype=99))], "data type 99"),
        ([HEADER, (b"a", entry([6], 0, 24, shard=3))], "data file 3 of 1"),
        ([HEADER, (b"b", entry([], 0, 4)), (b"a", entry([], 4, 4))], "not in order"),
        ([(b"a", entry([6], 0, 24))], "header is missing"),
        ([(b"", number(1, 0))], "0 data files"),
        ([(b"", number(1, 1 << 40))], "data files"),
        ([(b"", number(1, 1) + number(2, 1))], "big-endian"),
        ([(b"", number(1, 2))], "is missing"),
    ],
)
def test_an_index_that_does_not_hold_together_is_refused(
    tmp_path: Path, pairs: list[tuple[bytes, bytes]], fact: str
) -> None:
    with pytest.raises(SourceUnreadable, match=fact):
        variables.read_index(write(tmp_path, table(pairs)))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, table(GOOD))
    shard = root / "variables/variables.data-00000-of-00001"
    shard.unlink()
    shard.symlink_to("/etc/hostname")
    with pytest.raises(SourceUnreadable, match="by a link"):
        variables.read_index(root)


@given(st.integers(0, len(table(GOOD)) - 1), st.integers(1, 255))
@settings(max_examples=120, deadline=None)
def test_every_changed_byte_is_harmless_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    data = bytearray(table(GOOD))
    data[at] ^= flip
    root = write(tmp_path_factory.mktemp("flip"), bytes(data))
    try:
        entries, _ = variables.read_index(root)
    except SourceUnreadable:
        return
    # Only bytes that the reader skips may change unseen: the footer's padding and its metaindex handle.
    assert set(entries) == {"a/kernel", "b"}


@given(st.integers(0, len(table(GOOD)) - 1))
@settings(max_examples=100, deadline=None)
def test_every_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    with pytest.raises(SourceUnreadable):
        variables.read_index(write(tmp_path_factory.mktemp("cut"), table(GOOD)[:cut]))


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    ending = data + (0xDB4775248B80FB57).to_bytes(8, "little")
    with pytest.raises(SourceUnreadable):
        variables.read_index(write(tmp_path_factory.mktemp("random"), ending))


@pytest.mark.slow
def test_agrees_with_tensorflow(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    dtypes = ("float32", "float16", "bfloat16", "int64", "uint8", "bool")
    folder = tmp_path / "variables"
    folder.mkdir()
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        made = [
            tf.compat.v1.get_variable(f"{dtype}/w", (n + 1, 3), dtype, use_resource=True)
            for n, dtype in enumerate(dtypes)
        ]
        # Enough of them that the table has more than one block.
        made += [tf.compat.v1.get_variable(f"many{n}", initializer=float(n)) for n in range(600)]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(made).save(session, str(folder / "variables"), write_meta_graph=False)
    entries, _ = variables.read_index(tmp_path)
    reader = tf.train.load_checkpoint(str(folder / "variables"))
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    assert set(entries) == set(shapes)
    for key, item in entries.items():
        assert list(item.shape) == shapes[key]
        assert item.dtype == types[key].name
