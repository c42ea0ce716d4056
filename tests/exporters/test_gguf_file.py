"""The layout of a GGUF file: what the gguf package and llama.cpp's rules say of it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters.runtimes.gguf import file
from modelport.exporters.runtimes.gguf.file import Described
from modelport.sources.gguf import header

F32, F16, Q8_0, Q4_K = 0, 1, 8, 12
STRING, FLOAT32, INT32 = 8, 6, 5

names = st.one_of(
    st.sampled_from(["output.weight", "token_embd.weight", "output_norm.weight"]),
    st.builds("blk.{}.{}.weight".format, st.integers(0, 40), st.sampled_from(["attn_q", "attn_k", "ffn_up"])),
)
shapes = st.one_of(
    st.tuples(st.just(256)),
    st.tuples(st.integers(1, 5), st.just(512)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.just(256)),
)
tensors = st.dictionaries(names, st.tuples(st.sampled_from([F32, F16, Q8_0, Q4_K]), shapes), min_size=1)
entries = st.dictionaries(
    st.text("abc.", min_size=1, max_size=9),
    st.one_of(
        st.builds(lambda v: (INT32, v), st.integers(-(2**31), 2**31 - 1)),
        st.builds(lambda v: (STRING, v), st.text(max_size=9)),
        st.builds(lambda v: (FLOAT32, v), st.lists(st.floats(width=32, allow_nan=False), min_size=1)),
        st.builds(lambda v: (STRING, v), st.lists(st.text(max_size=5), min_size=1)),
    ),
)


def described(raw):
    return [Described(name, kind, shape) for name, (kind, shape) in raw.items()]


@given(raw=tensors, keys=entries)
def test_the_gguf_package_reads_what_is_laid_out(tmp_path_factory, raw, keys):
    gguf = pytest.importorskip("gguf")
    told = [header.entry("general.architecture", STRING, "llama")]
    told += [header.entry(key, kind, value) for key, (kind, value) in keys.items()]
    layout = file.lay_out(told, described(raw), 15)
    path = tmp_path_factory.mktemp("layout") / "model.gguf"
    with path.open("wb") as stream:
        stream.write(layout.front)
        stream.truncate(layout.total)
    reader = gguf.GGUFReader(path)
    for key, (_, value) in keys.items():
        found = reader.fields[key].contents()
        assert found == value
    assert reader.fields["general.file_type"].contents() == 15
    assert [tensor.name for tensor in reader.tensors] == file.order(raw)
    for tensor in reader.tensors:
        kind, shape = raw[tensor.name]
        assert tensor.tensor_type == kind
        assert int(np.prod(tensor.shape)) == int(np.prod(shape))
        assert tensor.data_offset == layout.begins[tensor.name]
        assert tensor.n_bytes == header.type_bytes(kind, shape)
    last = max(layout.begins, key=layout.begins.__getitem__)
    assert layout.begins[last] + -(-header.type_bytes(*raw[last]) // 32) * 32 == layout.total


def test_layers_are_sorted_by_number_after_what_has_none():
    given_ = ["blk.10.a", "blk.9.b", "blk.9.a", "output.weight", "blk.0.z", "Output.weight"]
    assert file.order(given_) == [
        "Output.weight",
        "output.weight",
        "blk.0.z",
        "blk.9.a",
        "blk.9.b",
        "blk.10.a",
    ]


def keys_of(layout: file.Layout, folder: Path) -> list[str]:
    path = folder / "front.gguf"
    with path.open("wb") as stream:
        stream.write(layout.front)
        stream.truncate(layout.total)
    return [entry.key for entry in header.read_header(path).entries]


def test_the_quantizers_own_keys_come_last_and_those_of_a_split_file_are_gone(tmp_path):
    told = [
        header.entry("general.file_type", 4, 1),
        header.entry("general.architecture", STRING, "llama"),
        header.entry("split.count", 2, 3),
        header.entry("general.quantization_version", 4, 1),
        header.entry("general.alignment", 4, 64),
        header.entry("llama.block_count", 4, 2),
    ]
    layout = file.lay_out(told, [Described("output.weight", F32, (2, 32))], 7)
    assert keys_of(layout, tmp_path) == [
        "general.architecture",
        "llama.block_count",
        "general.quantization_version",
        "general.file_type",
    ]


def test_axes_of_one_in_front_are_not_counted(tmp_path):
    one = file.lay_out([], [Described("a", F32, (1, 1, 4, 8))], 0)
    two = file.lay_out([], [Described("a", F32, (4, 8))], 0)
    assert one.front == two.front


@pytest.mark.parametrize(("given", "kept"), [(32, True), (64, False), (8, False)])
def test_a_stated_alignment_is_kept_where_it_is_the_one_that_is_written(tmp_path, given, kept):
    told = [header.entry("general.alignment", 4, given)]
    layout = file.lay_out(told, [Described("output.weight", F32, (2, 32))], 7)
    assert ("general.alignment" in keys_of(layout, tmp_path)) is kept
