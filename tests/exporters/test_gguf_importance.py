"""The importance matrix: what is collected is what the matrices see, and files are those of llama.cpp's tools."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.exporters.runtimes.gguf import imatrix
from modelport.exporters.runtimes.gguf.imatrix import Sums
from modelport.targets.errors import UsageError

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 40))


def sums(matrices: int, width: int, seed: int, *, shared: bool = False) -> Sums:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((matrices, width)) ** 2 * 1e4).astype(np.float32)
    counts = rng.integers(0, 5000, 1 if shared else matrices).astype(np.float32)
    return Sums(values, counts)


def legacy(entries: list[tuple[str, int, np.ndarray]]) -> bytes:
    written = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        written += struct.pack("<i", len(name)) + name.encode()
        written += struct.pack("<ii", calls, len(values)) + values.astype("<f4").tobytes()
    return written + struct.pack("<ii", 7, 4) + b"text"


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=5), seed=st.integers(0, 1 << 20))
def test_what_is_read_is_sums_by_counts_to_the_bit(tmp_path_factory, sizes, seed) -> None:
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    data = {
        f"blk.{n}.ffn_up_exps.weight": sums(size[0], size[1], seed + n, shared=n % 2 == 0)
        for n, size in enumerate(sizes)
    }
    imatrix.write(path, data, ["a.txt"], 3, 256)
    found = imatrix.read(path)
    assert set(found) == set(data)
    for name, entry in data.items():
        counts = np.broadcast_to(entry.counts[:, None], entry.values.shape)
        ones = np.ones_like(entry.values)
        expected = np.divide(entry.values, counts, out=ones, where=counts > 0)
        assert found[name].dtype == np.float32
        assert found[name].tobytes() == expected.ravel().tobytes()


def test_the_file_has_the_keys_and_tensors_that_llama_cpp_reads(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "imatrix.gguf"
    plain, experts = sums(1, 64, 0), sums(4, 32, 1)
    imatrix.write(path, {"blk.1.b": experts, "blk.0.a": plain}, ["a.txt", "b.jsonl"], 5, 512)
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert keys == {
        "general.type": "imatrix",
        "imatrix.datasets": ["a.txt", "b.jsonl"],
        "imatrix.chunk_count": 5,
        "imatrix.chunk_size": 512,
    }
    names = [tensor.name for tensor in reader.tensors]
    assert names == ["blk.0.a.in_sum2", "blk.0.a.counts", "blk.1.b.in_sum2", "blk.1.b.counts"]
    assert [tuple(map(int, tensor.shape)) for tensor in reader.tensors] == [(64,), (1,), (32, 4), (1, 4)]
    np.testing.assert_array_equal(reader.tensors[2].data, experts.values)


def test_the_older_form_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    values = np.array([3.0, 6.0, 9.0], np.float32)
    path.write_bytes(legacy([("blk.0.attn_q.weight", 3, values), ("blk.0.attn_k.weight", 0, values)]))
    found = imatrix.read(path)
    np.testing.assert_array_equal(found["blk.0.attn_q.weight"], [1, 2, 3])
    np.testing.assert_array_equal(found["blk.0.attn_k.weight"], values)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 70))
def test_an_older_file_that_was_cut_off_is_refused_or_whole(tmp_path_factory, cut) -> None:
    path = tmp_path_factory.mktemp("dat") / "imatrix.dat"
    whole = legacy([("blk.0.attn_q.weight", 3, np.arange(6, dtype=np.float32))])
    path.write_bytes(whole[:cut])
    needed = len(whole) - 12  # what stands behind the entries is not read
    if cut < needed:
        with pytest.raises(UsageError, match=r"imatrix\.dat"):
            imatrix.read(path)
    else:
        assert list(imatrix.read(path)) == ["blk.0.attn_q.weight"]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Sums(np.array([[1, np.nan]], np.float32), np.ones(1, np.float32)), "1 of 2 values are NaN"),
        (Sums(np.array([[1, np.inf]], np.float32), np.ones(1, np.float32)), "infinite"),
        (Sums(np.ones((1, 2), np.float32), np.array([np.nan], np.float32)), "NaN"),
        (Sums(np.array([[1, -1]], np.float32), np.ones(1, np.float32)), "negative"),
        (Sums(np.ones((1, 5), np.float32), np.ones(2, np.float32)), "5 sums for 2 counts"),
    ],
)
def test_damaged_values_are_refused_by_file_and_tensor(tmp_path: Path, broken: Sums, words: str) -> None:
    path = tmp_path / "mine.gguf"
    imatrix.write(path, {"blk.0.ffn_down.weight": broken}, [], 1, 16)
    with pytest.raises(UsageError, match=words) as caught:
        imatrix.read(path)
    assert caught.value.where == "mine.gguf: blk.0.ffn_down.weight"


def test_a_model_given_as_importance_matrix_is_told_apart(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_tensor("token_embd.weight", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UsageError, match="type 'model', not an importance matrix"):
        imatrix.read(path)
    with pytest.raises(UsageError, match="no such file"):
        imatrix.read(tmp_path / "nothing.gguf")
