"""Slabs of rows: what is read is what the transform says, however it is cut."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.exporters.runtimes.gguf import rows
from modelport.exporters.runtimes.gguf.blueprint import Tensor
from modelport.sources.place import Place
from modelport.targets.errors import SourceUnreadable, Unsupported

NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def stored(folder, arrays, dtype="float16"):
    """A file that holds the arrays one behind the other, after some other bytes, and their places."""
    path, places, begin = folder / "weights.safetensors", {}, 7
    with path.open("wb") as file:
        file.write(b"header!")
        for name, array in arrays.items():
            data = array.astype(NUMPY[dtype]).tobytes()
            places[name] = Place(path, begin, dtype, array.shape, len(data))
            file.write(data)
            begin += len(data)
    return places


def read_all(bound, largest, *, split_matrices=False):
    """The whole tensor, read slab by slab."""
    kind = NUMPY[bound.stored]
    out = np.zeros((bound.rows, bound.width), kind)
    files = rows.Files()
    cost = rows.row_bytes(bound.stored, bound.width)
    at = 0
    for slab in rows.slabs(bound, largest, row_cost=cost, split_matrices=split_matrices):
        assert slab.first == at
        assert slab.rows == 1 or slab.nbytes <= max(largest, 2 * cost)
        if split_matrices:
            assert slab.first // bound.matrix_rows == (slab.first + slab.rows - 1) // bound.matrix_rows
        buffer = bytearray(slab.nbytes)
        files.read(slab, memoryview(buffer))
        out[at : at + slab.rows] = np.frombuffer(buffer, kind).reshape(slab.rows, bound.width)
        at += slab.rows
    files.close()
    assert at == bound.rows
    return out


def counted(*shape):
    return (np.arange(np.prod(shape)) % 2003).reshape(shape)


largest = st.integers(1, 4096)


@given(largest=largest, heads=st.integers(1, 4), half=st.integers(1, 9), width=st.integers(1, 8))
@settings(max_examples=60)
def test_permuted_rows_are_those_of_the_formula(tmp_path_factory, largest, heads, half, width):
    array = counted(heads * 2 * half, width)
    places = stored(tmp_path_factory.mktemp("rows"), {"q": array})
    (bound,) = rows.bind([Tensor("t", array.shape, ("q",), "permute", heads=heads)], places)
    wanted = array.reshape(heads, 2, half, width).swapaxes(1, 2).reshape(array.shape)
    assert (read_all(bound, largest) == wanted).all()


@pytest.mark.parametrize("largest", [1, 10, 1 << 20])
def test_a_permuted_vector_moves_its_values(tmp_path, largest):
    array = counted(2 * 1400)
    places = stored(tmp_path, {"b": array})
    (bound,) = rows.bind([Tensor("t", array.shape, ("b",), "permute", heads=2)], places)
    wanted = array.reshape(2, 2, 700).swapaxes(1, 2).reshape(-1)
    assert (read_all(bound, largest).reshape(-1) == wanted).all()


@given(
    largest=largest, height=st.integers(1, 40), width=st.integers(1, 40), dtype=st.sampled_from(list(NUMPY))
)
@settings(max_examples=60)
def test_a_transposed_matrix_is_read_by_columns(tmp_path_factory, largest, height, width, dtype):
    array = counted(height, width)
    places = stored(tmp_path_factory.mktemp("rows"), {"c": array}, dtype)
    (bound,) = rows.bind([Tensor("t", (width, height), ("c",), "transpose")], places)
    assert (read_all(bound, largest) == array.T).all()


@given(largest=largest, experts=st.integers(1, 4), split=st.booleans())
@settings(max_examples=40)
def test_parts_are_stacked_in_order(tmp_path_factory, largest, experts, split):
    arrays = {f"e{n}": counted(5, 6) + n for n in range(experts)}
    places = stored(tmp_path_factory.mktemp("rows"), arrays)
    (bound,) = rows.bind([Tensor("t", (experts, 5, 6), tuple(arrays))], places)
    wanted = np.concatenate(list(arrays.values()))
    assert (read_all(bound, largest, split_matrices=split) == wanted).all()


def test_one_stored_tensor_of_all_experts_is_cut_between_them(tmp_path):
    array = counted(3, 5, 6)
    places = stored(tmp_path, {"e": array})
    (bound,) = rows.bind([Tensor("t", (3, 5, 6), ("e",))], places)
    assert (read_all(bound, 1 << 20, split_matrices=True) == array.reshape(-1, 6)).all()


def test_computed_values_are_float32(tmp_path):
    (bound,) = rows.bind([Tensor("rope_freqs.weight", (3,), values=(1.0, 0.1, 8.0), float32=True)], {})
    assert (read_all(bound, 1 << 20)[0] == np.float32([1.0, 0.1, 8.0])).all()


def test_a_missing_weight_is_named(tmp_path):
    with pytest.raises(SourceUnreadable, match=r"'b'.*blk\.0\.x"):
        rows.bind([Tensor("blk.0.x", (2, 4), ("a", "b"))], stored(tmp_path, {"a": counted(1, 4)}))


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("t", (4, 6), ("a",)),
        Tensor("t", (8, 4), ("a",)),
        Tensor("t", (4, 8), ("a",), "transpose"),
        Tensor("t", (4, 8), ("a",), "permute", heads=3),
        Tensor("t", (4, 8), ("a",), "permute", heads=4),
    ],
)
def test_a_weight_of_another_size_is_refused_by_name(tmp_path, tensor):
    with pytest.raises(SourceUnreadable, match=r"weights\.safetensors: a"):
        rows.bind([tensor], stored(tmp_path, {"a": counted(4, 8)}))


def test_blocks_cannot_be_permuted(tmp_path):
    places = stored(tmp_path, {"a": counted(4, 32)})
    places["a"] = dataclasses.replace(places["a"], dtype="q8_0", nbytes=4 * 34)
    with pytest.raises(Unsupported, match="q8_0"):
        rows.bind([Tensor("t", (4, 32), ("a",), "permute", heads=2)], places)


def test_a_file_that_ends_early_is_named(tmp_path):
    places = stored(tmp_path, {"a": counted(64, 64)})
    with (tmp_path / "weights.safetensors").open("r+b") as file:
        file.truncate(5000)
    (bound,) = rows.bind([Tensor("t", (64, 64), ("a",))], places)
    with pytest.raises(SourceUnreadable, match=r"weights\.safetensors.*ends at byte 5,000"):
        read_all(bound, 1000)
