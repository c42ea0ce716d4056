"""What of a torch program would run as code when torch loads it, and what of that is let through.

`torch.export.load` and `ExportedProgram.module()` execute more than pickles (torch 2.13): size expressions go
through `sympy.sympify` (which evaluates Python), `guards_code` and the generated forward function through
`exec`, call specifications import modules by name, and operator names are looked up as attributes of
torch. So every string that reaches one of those is held against a grammar here. Nothing is executed.
"""

from __future__ import annotations

import ast
import pickletools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...targets.errors import SourceUnreadable
from ..files import jsonfile, zipguard
from . import symbolic

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,300}|")
_DOTTED = re.compile(r"[A-Za-z0-9_.\-]{0,500}")
_KEY = re.compile(r"[\w .\-/]{0,200}")
_TYPE = re.compile(r"[A-Za-z_][\w.]{0,300}")

NAMESPACES = ("aten", "prim", "prims", "quantized_decomposed")
"""Operator libraries that come with torch itself; others would need code from elsewhere."""
_UNSAFE = ("from_file", "_from_file", "save", "load", "_print")
_HIGHER_ORDER = (
    "wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "while_loop", "map_impl", "scan",
    "associative_scan", "autograd_function_apply", "hints_wrapper", "wrap", "checkpoint",
)  # fmt: skip
_OPERATOR = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pos", "pow", "getitem", "eq", "ne", "lt", "le",
    "gt", "ge", "and_", "or_", "not_", "xor", "abs", "inv", "invert", "truth", "lshift", "rshift",
)  # fmt: skip
_TARGETS = (
    re.compile(rf"torch\.ops\.({'|'.join(NAMESPACES)})\.[A-Za-z_]\w*\.[A-Za-z_]\w*"),
    re.compile(rf"torch\.ops\.higher_order\.({'|'.join(_HIGHER_ORDER)})"),
    re.compile(rf"_operator\.({'|'.join(_OPERATOR)})"),
    re.compile(r"math\.(ceil|floor|trunc|sqrt|pow|log2|log|exp)"),
    re.compile(r"torch\.(sym_(int|float|max|min|not|ite|sum|sqrt)|_sym_sqrt)"),
)
_GUARD_CALLS = (
    "size",
    "stride",
    "storage_offset",
    "dim",
    "numel",
    "Max",
    "Min",
    "FloorDiv",
    "Mod",
    "PythonMod",
)

_PICKLED = {
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"), ("torch", "Size"),
    ("collections", "OrderedDict"), ("torch", "device"), ("torch.storage", "UntypedStorage"),
}  # fmt: skip
_STORAGE = re.compile(
    r"(Double|Float|Half|Long|Int|Short|Char|Byte|Bool|BFloat16|ComplexFloat|ComplexDouble|Untyped)Storage"
)
_DTYPE = re.compile(r"(float|bfloat|int|uint|complex|bool)\d*")
_PICKLE_LIMIT = 1 << 20

_MEND = "Save it again with torch.export.save from a model of torch's own operators and plain tensors"


def check_program(program: Mapping[str, Any], file: str) -> None:
    """Hold every string of the serialized program that torch would evaluate against its grammar.

    Raises SourceUnreadable naming the field.
    """
    stack: list[tuple[Any, str]] = [(program, "")]
    while stack:
        value, at = stack.pop()
        if isinstance(value, dict):
            for key, item in value.items():
                place = f"{at}.{key[:80]}" if at else key[:80]
                _check_field(key, item, f"{file}: {place}")
                # Node metadata (stack traces) is text for people: torch prints it and runs none of it.
                if key != "metadata":
                    stack.append((item, place))
        elif isinstance(value, list):
            stack.extend((item, f"{at}[{index}]") for index, item in enumerate(value))


def _check_field(key: str, value: Any, where: str) -> None:
    check = _CHECKS.get(key)
    if check is not None and value is not None:
        check(value, where)


def _pattern(pattern: re.Pattern[str], what: str) -> Callable[[Any, str], None]:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise SourceUnreadable(f"{str(value)[:80]!r} is not {what}", where=where, mend=_MEND)

    return check


_check_name = _pattern(_NAME, "a name")
_check_dotted = _pattern(_DOTTED, "the name of a weight or module")


def _check_target(value: Any, where: str) -> None:
    known = isinstance(value, str) and any(pattern.fullmatch(value) for pattern in _TARGETS)
    if not known or value.split(".")[-2] in _UNSAFE:
        raise SourceUnreadable(
            f"the operator {str(value)[:120]!r} is not one of torch's own computing operators",
            where=where,
            mend=f"Known libraries: {', '.join(NAMESPACES)}",
        )


def _check_expression(value: Any, where: str) -> None:
    try:
        symbolic.symbols(value)
    except (ValueError, RecursionError) as error:
        raise SourceUnreadable(f"not a size expression: {error}", where=where, mend=_MEND) from None


def _check_keys(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise SourceUnreadable("an object is expected", where=where, mend=_MEND)
    for key in value:
        _check_name(key, where)


def _check_names(value: Any, where: str) -> None:
    if not isinstance(value, list):
        raise SourceUnreadable("a list of names is expected", where=where, mend=_MEND)
    for name in value:
        _check_name(name, where)


def _check_empty(value: Any, where: str) -> None:
    if value:
        raise SourceUnreadable(
            "the program holds custom objects, which load by running code",
            where=where,
            mend="Export a model whose state is plain tensors",
        )


def _check_guards(value: Any, where: str) -> None:
    if not isinstance(value, list):
        raise SourceUnreadable("a list of guards is expected", where=where, mend=_MEND)
    for index, guard in enumerate(value):
        try:
            if not isinstance(guard, str) or len(guard) > 2000 or set(guard) & set('"\\\n\r#;'):
                raise ValueError("not a short plain expression")
            _walk_guard(ast.parse(guard, mode="eval").body)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            fact = f"{str(guard)[:80]!r} is not a comparison of sizes"
            raise SourceUnreadable(fact, where=f"{where}[{index}]", mend=_MEND) from None


def _walk_guard(node: ast.expr) -> None:
    """Comparisons and arithmetic of sizes: L['x'].size()[0] <= 64, math.floor(...), Max(...)."""
    match node:
        case ast.Compare():
            parts = [node.left, *node.comparators]
        case ast.BoolOp():
            parts = node.values
        case ast.BinOp():
            parts = [node.left, node.right]
            if isinstance(node.op, ast.Pow) and not isinstance(node.right, ast.Constant):
                raise ValueError("power")
        case ast.UnaryOp():
            parts = [node.operand]
        case ast.Subscript():
            parts = [node.value, node.slice]
        case ast.Attribute(attr="shape"):
            parts = [node.value]
        case ast.Call(func=ast.Attribute(attr=name)) if name in _GUARD_CALLS and not node.keywords:
            assert isinstance(node.func, ast.Attribute)
            parts = [node.func.value, *node.args]
        case ast.Call(func=ast.Name(id=name)) if name in _GUARD_CALLS and not node.keywords:
            parts = list(node.args)
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="math"), attr="floor" | "ceil" | "trunc" | "sqrt")
        ):
            parts = list(node.args)
        case ast.Name(id="L" | "inf" | "True" | "False"):
            parts = []
        case ast.Constant(value=bool() | int() | float()):
            parts = []
        case ast.Constant(value=str() as text) if _KEY.fullmatch(text):
            parts = []
        case _:
            raise ValueError(type(node).__name__)
    for part in parts:
        _walk_guard(part)


def _check_spec(value: Any, where: str) -> None:
    """A call specification: a JSON text that names container types, which torch would import."""
    if not isinstance(value, str) or len(value) > 4 << 20:
        raise SourceUnreadable("a JSON text is expected", where=where, mend=_MEND)
    if not value:
        return
    stack = [jsonfile.parse(value.encode(), where)]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            kind = item.get("type")
            if kind is not None and not (isinstance(kind, str) and _TYPE.fullmatch(kind)):
                raise SourceUnreadable(f"{str(kind)[:80]!r} is not a type's name", where=where, mend=_MEND)
            _check_context(item.get("context"), where)
            stack.append(item.get("children_spec"))


def _check_context(context: Any, where: str) -> None:
    """A container's keys. Enumerations and default factories name modules to import and are refused."""
    if isinstance(context, str):
        try:
            context = jsonfile.parse(context.encode(), where)
        except SourceUnreadable:
            # Some types keep plain text here, as a named tuple keeps its name.
            _pattern(_TYPE, "a container's context")(context, where)
            return
    stack = [context]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            if set(item) & {"__enum__", "fqn", "default_factory_module"}:
                fact = "the call specification names a module to import"
                raise SourceUnreadable(fact, where=where, mend="Use plain dicts, lists and tuples as inputs")
            stack.extend([*item, *item.values()])
        elif isinstance(item, str) and not _KEY.fullmatch(item):
            raise SourceUnreadable(f"{item[:80]!r} is not a plain key", where=where, mend=_MEND)


_CHECKS: Mapping[str, Callable[[Any, str], None]] = {
    "target": _check_target,
    "as_operator": _check_target,
    "expr_str": _check_expression,
    "name": _check_name,
    "as_name": _check_name,
    "parameter_name": _check_dotted,
    "buffer_name": _check_dotted,
    "tensor_constant_name": _check_dotted,
    "user_input_name": _check_dotted,
    "fqn": _check_dotted,
    "forward_arg_names": _check_names,
    "tensor_values": _check_keys,
    "sym_int_values": _check_keys,
    "sym_float_values": _check_keys,
    "sym_bool_values": _check_keys,
    "custom_obj_values": _check_empty,
    "as_custom_obj": _check_empty,
    "custom_obj": _check_empty,
    "in_spec": _check_spec,
    "out_spec": _check_spec,
    "guards_code": _check_guards,
}
"""The check for each field of the schema that torch evaluates, looks up or writes into generated code."""


def check_sample_inputs(content: bytes, path: Path, member: str) -> None:
    """The pickle of the example inputs may build tensors and containers, nothing else.

    torch tries it with weights_only=True, and then without: so an unknown global here would run.
    """
    where = f"{path.name}: {member}"
    if not content:
        return
    inner = zipguard.check(Path(f"{path.name}: example inputs"), content=content)
    pickles = [name for name in inner.members if name.endswith(".pkl")]
    if len(pickles) != 1 or not pickles[0].endswith("/data.pkl") or pickles[0].count("/") != 1:
        raise SourceUnreadable("a single data.pkl is expected in the example inputs", where=where, mend=_MEND)
    raw = inner.read(pickles[0], _PICKLE_LIMIT)
    try:
        operations = list(pickletools.genops(raw))
    except Exception as error:  # pickletools raises whatever it met
        raise SourceUnreadable(f"the pickle is damaged: {error}", where=where, mend=_MEND) from None
    for operation, argument, _ in operations:
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            plain = module == "torch" and (_STORAGE.fullmatch(name) or _DTYPE.fullmatch(name))
            if not plain and (module, name) not in _PICKLED:
                fact = f"the example inputs would run {module}.{name}"
                raise SourceUnreadable(fact, where=where, mend="Give plain tensors as example inputs")
        elif operation.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"):
            fact = f"the example inputs hold the pickle operation {operation.name}"
            raise SourceUnreadable(fact, where=where, mend="Give plain tensors as example inputs")
