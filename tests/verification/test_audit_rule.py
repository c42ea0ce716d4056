"""int8 asked for and float delivered: the shares, the warning, the refusal."""

from __future__ import annotations

from modelport.verification.audit import Audit
from modelport.verification.audit.rule import left_in_float, shares


def audit(int8: int, float32: int, macs: dict[str, int] | None = None) -> Audit:
    weights = {"int8": int8, "float32": float32}
    return Audit(weights, macs or {"int8": 1}, {}, ("CONV_2D 'stem'",) if float32 else (), int8 + float32)


def test_all_int8_is_no_warning() -> None:
    held = shares(audit(1000, 0), "int8", "int8")
    assert (held.weights, held.macs, held.warnings, held.refused) == (1.0, 1.0, (), False)


def test_less_than_95_percent_names_the_operators_left_in_float() -> None:
    held = shares(audit(90, 10), "int8", "int8")
    assert not held.refused
    assert "90.0%" in held.warnings[0]
    assert "CONV_2D 'stem'" in held.warnings[0]


def test_the_int32_biases_of_integer_kernels_are_no_reason_to_warn() -> None:
    held = shares(Audit({"int8": 80, "int32": 20}, {"int8": 1}, {}, (), 100), "int8", "int8")
    assert (held.weights, held.warnings) == (0.8, ())


def test_multiply_accumulates_count_where_the_scheme_computes_in_integers() -> None:
    macs = {"int8": 50, "float32": 50}
    assert len(shares(audit(100, 0, macs), "int8", "int8").warnings) == 1
    assert shares(audit(100, 0, macs), "int8", "float32").warnings == ()


def test_mostly_float_is_refused() -> None:
    assert shares(audit(10, 90), "int8", "int8").refused
    assert not shares(audit(0, 100), "float32", "float32").refused


def test_operators_left_in_float_are_counted_by_kind() -> None:
    assert left_in_float(["MatMul 'a'", "Conv 'b'", "MatMul 'c'"]) == "MatMul × 2, Conv 'b'"
