"""The C++ beside a model compiles without warnings, holds the file's bytes, and trusts no name of the model."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edge_headers
from modelport.exporters.runtimes.tflite_micro import cpp, operators
from modelport.exporters.runtimes.tflite_micro.reference import Edge, Sample

KINDS = ("CONV_2D", "FULLY_CONNECTED", "RESHAPE")
SIZE = cpp.ArenaSize(1024, 2048, 512)


def edge(name: str = "x", dtype: str = "int8", values=(1, -2, 127)) -> Edge:
    array = np.array([values], dtype)
    return Edge(name, dtype, array.shape, 0.5, -3, array)


def sample(**given) -> Sample:
    return Sample((edge(**given),), (edge("y"),))


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "bool"])
def test_every_file_compiles_without_a_warning(tmp_path, dtype):
    name = 'image\n*/ " \\ ??/\x1b[31m'
    values = (0, 1, 1) if dtype == "bool" else (1, -2, 100)
    made = cpp.files(bytes(range(256)) * 3, KINDS, SIZE, sample(name=name, dtype=dtype, values=values))
    for file, text in made.items():
        (tmp_path / file).write_text(text)
    edge_headers.write(tmp_path / "headers", operators.methods(KINDS))
    assert edge_headers.compile_all(tmp_path, tmp_path / "headers") == ""


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_an_operator_that_is_not_registered_does_not_compile(tmp_path):
    for file, text in cpp.files(b"TFL3", KINDS, SIZE, sample()).items():
        (tmp_path / file).write_text(text)
    edge_headers.write(tmp_path / "headers", operators.methods(KINDS[:2]))
    assert "AddReshape" in edge_headers.compile_all(tmp_path, tmp_path / "headers")


@given(st.binary(min_size=1, max_size=300))
@settings(deadline=None)
def test_the_array_is_the_file(data):
    text = cpp.files(data, KINDS, SIZE, sample())["model_data.cc"]
    assert edge_headers.array_bytes(text) == data
    assert "alignas(16) const unsigned char g_model_data[]" in text


@given(st.text(max_size=40))
@settings(deadline=None)
def test_a_name_stays_in_its_comment(name):
    text = cpp.files(b"x", KINDS, SIZE, sample(name=name))["sample.h"]
    lines = [line for line in text.splitlines() if line.startswith("// input ")]
    assert len(lines) == 1
    assert text.isascii()
    assert not lines[0].endswith("\\")


def test_the_resolver_has_exactly_the_operators_used():
    text = cpp.files(b"x", ("CONV_2D", "MAX_POOL_2D"), SIZE, sample())["op_resolver.h"]
    assert "MicroMutableOpResolver<2>" in text
    assert text.count("resolver.Add") == 2


def test_the_arena_depends_on_the_pointer_and_on_the_kernels():
    text = cpp.files(b"x", KINDS, SIZE, sample())["arena.h"]
    assert "sizeof(void*) == 4 ? 1024 : 2048" in text
    assert "kReferenceArenaSize + 512" in text
