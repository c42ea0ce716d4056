"""TensorRT's rules: a graph that keeps them all, and for each rule one that breaks it and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
onnx = pytest.importorskip("onnx")

from modelport.verification.rules import tensorrt  # noqa: E402
from tensorrt_graphs import Parts, write  # noqa: E402


def broken(path: Path) -> list[tuple[str, str]]:
    """Rule and node of each finding."""
    return [(finding.rule, finding.node) for finding in tensorrt.check(path)]


def test_a_graph_by_the_rules_has_no_finding_and_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert broken(path) == []


def old(parts: Parts) -> None:
    parts.opset = 18


def shifted(parts: Parts) -> None:
    parts.stored["three"] = np.asarray(3, np.int8)
    for name in ("x_q", "x_d"):
        parts.nodes[name].input[2] = "three"


def computed_zero(parts: Parts) -> None:
    parts.node("cast", "Cast", ["one"], "late", to=onnx.TensorProto.INT8)
    parts.stored["one"] = np.asarray(0, np.int32)
    for name in ("x_q", "x_d"):
        parts.nodes[name].input[2] = "late"


def unsigned(parts: Parts) -> None:
    parts.stored["unsigned"] = np.asarray(0, np.uint8)
    for name in ("r1_q", "r1_d"):
        parts.nodes[name].input[2] = "unsigned"


def no_zero_point(parts: Parts) -> None:
    for name in ("r1_q", "r1_d"):
        del parts.nodes[name].input[2]


def computed_scale(parts: Parts) -> None:
    parts.node("half", "Mul", ["f_scale", "f_scale"], "late")
    for name in ("f_q", "f_d"):
        parts.nodes[name].input[1] = "late"


def negative_scale(parts: Parts) -> None:
    parts.stored["f_scale"] = np.asarray(-0.1, np.float32)


def wrong_axis(parts: Parts) -> None:
    for attribute in parts.nodes["conv1_d"].attribute:
        attribute.i = 1


def activation_per_channel(parts: Parts) -> None:
    parts.stored["r1_scale"] = np.full(4, 0.05, np.float32)
    parts.stored["zeros"] = np.zeros(4, np.int8)
    for name in ("r1_q", "r1_d"):
        parts.nodes[name].input[2] = "zeros"


def float_weight(parts: Parts) -> None:
    parts.stored["head_float"] = np.ones((5, 64), np.float32)
    parts.node("head_q", "QuantizeLinear", ["head_float", "head_scale", "head_zero"], "head_narrow", axis=0)
    parts.nodes["head_d"].input[0] = "head_narrow"


def other_scale(parts: Parts) -> None:
    parts.stored["another"] = np.asarray(0.06, np.float32)
    parts.nodes["f_d"].input[1] = "another"


def one_side(parts: Parts) -> None:
    parts.nodes["head"].input[0] = "f"
    del parts.nodes["f_q"], parts.nodes["f_d"]


def cast_between(parts: Parts) -> None:
    parts.node("cast", "Cast", ["f_dq"], "late", to=onnx.TensorProto.FLOAT)
    parts.nodes["head"].input[0] = "late"


def quantized_bias(parts: Parts) -> None:
    parts.stored["bias"] = np.zeros(5, np.int8)
    parts.node("bias_d", "DequantizeLinear", ["bias", "f_scale", "zero"], "bias_wide")
    parts.nodes["head"].input[2] = "bias_wide"


def apart_from_activation(parts: Parts) -> None:
    parts.pair("c1")
    parts.nodes["relu1"].input[0] = "c1_dq"


def float_residual(parts: Parts) -> None:
    parts.nodes["add"].input[1] = "x"


def apart_from_addition(parts: Parts) -> None:
    parts.pair("c2")
    parts.nodes["add"].input[0] = "c2_dq"


def quantized_output(parts: Parts) -> None:
    parts.pair("y")
    parts.output = "y_dq"


def mixed_types(parts: Parts) -> None:
    parts.stored["head_b"] = parts.stored["head_b"].astype(np.float16)
    parts.types["y"] = onnx.TensorProto.FLOAT


def narrow_operand(parts: Parts) -> None:
    parts.nodes["f_d"].input[0] = "f_moved"
    parts.node("move", "Identity", ["f_q"], "f_moved")


CASES = {
    old: {("operator set", "")},
    shifted: {("zero point", "QuantizeLinear 'x_q'"), ("zero point", "DequantizeLinear 'x_d'")},
    computed_zero: {("zero point", "QuantizeLinear 'x_q'"), ("zero point", "DequantizeLinear 'x_d'")},
    unsigned: {("type", "QuantizeLinear 'r1_q'"), ("type", "DequantizeLinear 'r1_d'")},
    no_zero_point: {("type", "QuantizeLinear 'r1_q'"), ("type", "DequantizeLinear 'r1_d'")},
    computed_scale: {("scale", "QuantizeLinear 'f_q'"), ("scale", "DequantizeLinear 'f_d'")},
    negative_scale: {("scale", "QuantizeLinear 'f_q'"), ("scale", "DequantizeLinear 'f_d'")},
    wrong_axis: {("channels", "DequantizeLinear 'conv1_d'")},
    activation_per_channel: {
        ("channels", "QuantizeLinear 'r1_q'"),
        ("channels", "DequantizeLinear 'r1_d'"),
    },
    float_weight: {("weights", "QuantizeLinear 'head_q'")},
    other_scale: {("pairs", "DequantizeLinear 'f_d'")},
    one_side: {("operands", "Gemm 'head'")},
    cast_between: {("casts", "Cast 'cast'"), ("operands", "Gemm 'head'")},
    quantized_bias: {("bias", "Gemm 'head'")},
    apart_from_activation: {("activation", "Relu 'relu1'")},
    float_residual: {("residual", "Add 'add'")},
    apart_from_addition: {("residual", "Add 'add'")},
    quantized_output: {("outputs", "DequantizeLinear 'y_d'")},
    mixed_types: {("one type", "Gemm 'head'")},
    narrow_operand: {
        ("narrow values", "Identity 'move'"),
        ("pairs", "QuantizeLinear 'f_q'"),
        ("pairs", "DequantizeLinear 'f_d'"),
    },
}


@pytest.mark.parametrize("edit", CASES, ids=lambda edit: edit.__name__)
def test_a_broken_rule_is_found_at_its_node(edit: object, tmp_path: Path) -> None:
    assert set(broken(write(tmp_path / "model.onnx", edit))) == CASES[edit]


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    told = {rule for findings in CASES.values() for rule, _ in findings}
    assert len(told) == len(tensorrt.RULES)


def test_two_convolutions_into_one_addition_quantize_the_shortcut(tmp_path: Path) -> None:
    """One of the two is fused with the addition, the other one is its residual: neither more nor less is asked."""

    def shortcut(parts: Parts) -> None:
        weight = np.random.default_rng(1).normal(size=(4, 4, 1, 1))
        parts.product("short", "Conv", "x_dq", weight, 0, "s")
        parts.pair("s")
        parts.nodes["add"].input[1] = "s_dq"

    assert broken(write(tmp_path / "model.onnx", shortcut)) == []

    def both(parts: Parts) -> None:
        shortcut(parts)
        parts.pair("c2")
        parts.nodes["add"].input[0] = "c2_dq"

    assert broken(write(tmp_path / "model.onnx", both)) == [("residual", "Add 'add'")]


def test_a_convolution_that_others_read_too_may_be_quantized_before_its_addition(tmp_path: Path) -> None:
    def shared(parts: Parts) -> None:
        parts.pair("c2")
        parts.nodes["add"].input[0] = "c2_dq"
        parts.node("more", "Sigmoid", ["c2"], "gate")

    assert broken(write(tmp_path / "model.onnx", shared)) == []


def test_a_finding_says_rule_node_and_fact(tmp_path: Path) -> None:
    (finding,) = tensorrt.check(write(tmp_path / "model.onnx", float_residual))
    assert str(finding) == "residual: Add 'add': its residual input is not quantized"
