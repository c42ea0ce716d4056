"""Operators are held against what TensorFlow Lite Micro registers, by name, and by the types of its kernels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from modelport.exporters.litert.flatbuffer import Op
from modelport.exporters.runtimes.tflite_micro import flash, operators
from modelport.targets.errors import Unsupported


def graph(*kinds: str):
    return SimpleNamespace(ops=tuple(Op(index, kind, (0,), (1,)) for index, kind in enumerate(kinds)))


def test_an_operator_that_is_not_registered_is_named_with_the_version():
    with pytest.raises(Unsupported, match=r"no kernel for GELU, TOPK_V2 \(tensorflow/tflite-micro"):
        operators.require(graph("CONV_2D", "TOPK_V2", "GELU"), "int8")


def test_a_kernel_without_int16_points_to_int8():
    operators.require(graph("CONV_2D", "RESIZE_BILINEAR"), "int8")
    with pytest.raises(Unsupported, match="RESIZE_BILINEAR") as refused:
        operators.require(graph("CONV_2D", "RESIZE_BILINEAR"), "int16x8")
    assert "--quant int8" in refused.value.mend


def test_what_is_registered_for_floats_alone_is_refused():
    with pytest.raises(Unsupported, match="L2_POOL_2D"):
        operators.require(graph("L2_POOL_2D"), "int8")


def test_every_registered_operator_has_one_method_and_a_size():
    table = operators.registered()
    assert len(set(table.methods.values())) == len(table.methods)
    assert table.allowed["int16x8"] < table.allowed["int8"] < set(table.methods)
    smallest = flash.code_bytes(())
    for kind in table.methods:
        assert flash.code_bytes((kind,)) > smallest


def test_kernels_that_share_a_file_are_counted_once():
    one = flash.code_bytes(("MAX_POOL_2D",))
    assert flash.code_bytes(("MAX_POOL_2D", "AVERAGE_POOL_2D")) == one
    assert flash.code_bytes(("MAX_POOL_2D", "CONV_2D")) > one
    assert "Cortex-M4" in flash.basis()
