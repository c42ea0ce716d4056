"""Reads the size expressions of a torch program without sympy: its `sympify` would evaluate them as Python.

torch.export writes sizes in sympy's `srepr` form, "Mul(Integer(2), Symbol('s0', positive=True))", and torch
reads them back with `sympy.sympify`, which runs whatever stands there. Only the form below is let through.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from functools import reduce

MAX_LENGTH = 10_000
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}")
_ASSUMPTIONS = {"positive", "integer", "nonnegative", "real", "commutative", "zero", "nonzero", "finite"}
_MAX_VALUE = 1 << 60


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > 64 or abs(base) > 1 << 31:
        raise ValueError("a power out of bounds")
    result: float = base**exponent
    return result


def _floor_div(a: float, b: float) -> float:
    return a // b


FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "Add": lambda *terms: sum(terms),
    "Mul": lambda *factors: reduce(lambda a, b: a * b, factors, 1),
    "Pow": _power,
    "PowByNatural": _power,
    "FloatPow": _power,
    "Rational": lambda a, b: a / b,
    "FloorDiv": _floor_div,
    "CleanDiv": _floor_div,
    "CeilDiv": lambda a, b: -(-a // b),
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "ModularIndexing": lambda a, b, c: a // b % c,
    "FloatTrueDiv": lambda a, b: a / b,
    "IntTrueDiv": lambda a, b: a / b,
    "Max": max,
    "Min": min,
    "Abs": abs,
    "ToFloat": float,
    "Identity": lambda a: a,
    "TruncToInt": math.trunc,
    "TruncToFloat": lambda a: float(math.trunc(a)),
    "FloorToInt": math.floor,
    "CeilToInt": math.ceil,
    "RoundToInt": round,
    "floor": math.floor,
    "ceiling": math.ceil,
    "Where": lambda test, a, b: a if test else b,
    "Equality": lambda a, b: a == b,
    "Unequality": lambda a, b: a != b,
    "GreaterThan": lambda a, b: a >= b,
    "LessThan": lambda a, b: a <= b,
    "StrictGreaterThan": lambda a, b: a > b,
    "StrictLessThan": lambda a, b: a < b,
    "And": lambda *tests: all(tests),
    "Or": lambda *tests: any(tests),
    "Not": lambda test: not test,
}  # fmt: skip
"""Functions that an expression may name, and what they compute."""

_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: _floor_div,
    ast.Div: lambda a, b: a / b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: _power,
}


def symbols(expression: str) -> tuple[str, ...]:
    """The symbols that an expression reads, in the order in which they stand.

    Raises ValueError for anything but numbers, symbols and the functions above; nothing is evaluated.
    """
    found: list[str] = []
    _walk(_parse(expression), found)
    return tuple(dict.fromkeys(found))


def evaluate(expression: str, values: Mapping[str, int]) -> int:
    """The value of a size expression. Raises ValueError where a symbol is unknown or the result no size."""
    try:
        result = _value(_parse(expression), values)
    except (ArithmeticError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"cannot evaluate {expression[:80]!r}: {error}") from None
    if isinstance(result, complex) or result != result or abs(result) > _MAX_VALUE or result != int(result):
        raise ValueError(f"{expression[:80]!r} is no size")
    return int(result)


def readable(expression: str) -> str:
    """The expression as people write it: the bare name for a symbol, "2*s0" for a product."""
    return _text(_parse(expression))


def _parse(expression: str) -> ast.expr:
    if not isinstance(expression, str) or len(expression) > MAX_LENGTH:
        raise ValueError("a size expression of up to 10,000 characters is expected")
    try:
        return ast.parse(expression, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{expression[:80]!r} is no size expression") from None


def _symbol(node: ast.Call) -> str:
    """The name in Symbol('s0', positive=True, integer=True)."""
    name = node.args[0] if len(node.args) == 1 else None
    flags = all(
        k.arg in _ASSUMPTIONS and isinstance(k.value, ast.Constant) and isinstance(k.value.value, bool)
        for k in node.keywords
    )
    if (
        isinstance(name, ast.Constant)
        and isinstance(name.value, str)
        and _SYMBOL.fullmatch(name.value)
        and flags
    ):
        return name.value
    raise ValueError("a symbol of another form")


def _integer(node: ast.Call) -> int:
    if len(node.args) == 1 and not node.keywords:
        value = _number(node.args[0])
        if isinstance(value, int):
            return value
    raise ValueError("an integer of another form")


def _number(node: ast.expr) -> float:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand)
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MAX_VALUE:
        raise ValueError("a number is expected")
    return value


def _walk(node: ast.expr, found: list[str]) -> None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "Symbol":
            found.append(_symbol(node))
        elif node.func.id in ("Integer", "Float"):
            # Float carries its precision: Float('0.5', precision=53).
            if node.func.id == "Integer":
                _integer(node)
            else:
                _float(node)
        elif node.func.id in FUNCTIONS and not node.keywords:
            for argument in node.args:
                _walk(argument, found)
        else:
            raise ValueError(f"{node.func.id} is not a function of sizes")
    elif isinstance(node, ast.Name) and _SYMBOL.fullmatch(node.id):
        if node.id not in ("true", "false", "True", "False"):
            found.append(node.id)
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        _walk(node.left, found)
        _walk(node.right, found)
        if isinstance(node.op, ast.Pow) and not 0 <= _number(node.right) <= 64:
            raise ValueError("a power out of bounds")
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return
    else:
        _number(node)


def _float(node: ast.Call) -> float:
    first = node.args[0] if len(node.args) == 1 else None
    flags = all(k.arg == "precision" and isinstance(k.value, ast.Constant) for k in node.keywords)
    if isinstance(first, ast.Constant) and isinstance(first.value, str | int | float) and flags:
        return float(first.value)
    raise ValueError("a float of another form")


def _value(node: ast.expr, values: Mapping[str, int]) -> float:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name == "Symbol":
            return values[_symbol(node)]
        if name == "Integer":
            return _integer(node)
        if name == "Float":
            return _float(node)
        return FUNCTIONS[name](*(_value(argument, values) for argument in node.args))
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return node.value
    return _number(node)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "Symbol":
            return _symbol(node)
        if node.func.id == "Integer":
            return str(_integer(node))
        parts = [_text(argument) for argument in node.args]
        joined = {"Mul": "*", "Add": " + ", "Pow": "**"}.get(node.func.id)
        return joined.join(parts) if joined else f"{node.func.id}({', '.join(parts)})"
    return ast.unparse(node)
