"""An exported program of torch, run on JAX arrays node by node: traced, it is the StableHLO program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import torch

from ....targets.errors import ModelportError, Unsupported
from ...torch_nodes import describe, first_line, without_form
from .operators import FIRST_ALONE, IGNORED, OPERATORS
from .operators.arithmetic import OPERATORS as ARITHMETIC
from .operators.dtypes import FLOATS, INTEGERS, LARGEST, is_float, is_narrow, saturated

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

WITHOUT_MEANING = ("dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "generator")
"""Arguments that say how torch stores a result; its dtype is the graph's own."""


class InconclusiveShape(Exception):
    """A size that must be known depends on an axis that was left free."""


def refuse_missing(program: ExportedProgram, path: str) -> None:
    """Raise Unsupported, naming every operator of the program that has no form here."""
    lacking = [
        node
        for node in program.graph.nodes
        if node.op not in ("placeholder", "output", "get_attr") and not _known(node)
    ]
    if lacking:
        raise without_form(lacking, "there is no StableHLO form of", path)


def _known(node: Node) -> bool:
    if node.op != "call_function" or isinstance(node.target, torch._ops.HigherOrderOperator):
        return False
    name = str(node.target)
    if name in FIRST_ALONE and any(part.args[1] != 0 and part.users for part in node.users):
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return name in OPERATORS or name in IGNORED or name in SIZES
    return True  # arithmetic of sizes, and the parts of a tuple


def size_of(x: Any, dim: int) -> Any:
    """The length of an axis."""
    return x.shape[dim]


SIZES = {"aten.sym_size.int": size_of, "aten.sym_numel.default": lambda x: x.size}


def evaluate(
    program: ExportedProgram, arrays: Mapping[str, Any], *, narrow: bool, path: str
) -> tuple[Any, ...]:
    """The program's outputs, given an array by placeholder: weights as they are stored, inputs as they come.

    With `narrow`, a float result is bfloat16 where any float that it comes from is. What comes from integers
    alone (masks, positions) stays float32 until it meets such a one. Raises Unsupported, naming operator and
    source line, for a form that has no translation, and InconclusiveShape where a free axis is in the way.
    """
    values: dict[str, Any] = dict(arrays)
    for node in program.graph.nodes:
        if node.op == "call_function":
            try:
                with jax.named_scope(_scope(node)):
                    values[node.name] = _result(node, values, narrow)
            except ModelportError:
                raise
            except jax.errors.InconclusiveDimensionOperation as error:
                raise InconclusiveShape(f"{describe(node)}: {first_line(error)}") from error
            except Exception as error:  # JAX raises errors of its own many classes
                raise Unsupported(
                    f"no StableHLO form of {describe(node)}: {first_line(error)}",
                    where=path,
                    mend="Replace this operator in the model",
                ) from error
        elif node.op == "output":
            return tuple(_read(node.args[0], values))
    raise Unsupported("the program has no outputs", where=path)


def _scope(node: Node) -> str:
    """Where the operator stands in the model, as a profiler shows it: "encoder.layer.0.attention/linear_3"."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module = str(stack[-1][0]) if stack else ""
    for wrapper in ("L['self'].", "backbone.", "program."):
        module = module.removeprefix(wrapper)
    return f"{module}/{node.name}" if module else node.name


def _read(argument: Any, values: Mapping[str, Any]) -> Any:
    """An argument with every node in it replaced by its value."""
    if isinstance(argument, torch.fx.Node):
        return values[argument.name]
    if isinstance(argument, list | tuple):
        return [_read(part, values) for part in argument]
    return argument


def _result(node: Node, values: Mapping[str, Any], narrow: bool) -> Any:
    name = str(node.target)
    if name in IGNORED:
        return None
    arguments = _read(node.args, values)
    options = {key: _read(v, values) for key, v in node.kwargs.items() if key not in WITHOUT_MEANING}
    if name in SIZES or not isinstance(node.target, torch._ops.OpOverload):
        function: Any = SIZES.get(name, node.target)
        return function(*arguments, **options)
    arrays = [v for v in _flat([*arguments, *options.values()]) if hasattr(v, "dtype")]
    meeting = narrow and any(map(is_narrow, arrays))
    if meeting:
        arguments = [_within(argument) for argument in arguments]
    result = OPERATORS[name](*arguments, **options)
    # Only where float32 meets bfloat16 can a mask's least float32 become an infinity.
    careful = meeting and name in ARITHMETIC and any(is_float(v) and not is_narrow(v) for v in arrays)
    return _as_said(result, node.meta["val"], meeting, careful)


def _flat(values: Any) -> list[Any]:
    found = []
    for value in values:
        found.extend(_flat(value) if isinstance(value, list | tuple) else [value])
    return found


def _within(value: Any) -> Any:
    """A Python number that bfloat16 can hold."""
    if isinstance(value, float) and abs(value) > LARGEST and abs(value) != float("inf"):
        return LARGEST if value > 0 else -LARGEST
    return value


def _as_said(result: Any, said: Any, meeting: bool, careful: bool) -> Any:
    """The result in the dtype of torch's graph: any float is float32, or bfloat16 where it comes from one."""
    if isinstance(said, list | tuple):
        return [_as_said(one, each, meeting, careful) for one, each in zip(result, said, strict=False)]
    if said is None or not hasattr(said, "dtype"):
        return result
    array = jnp.asarray(result)
    if said.dtype in FLOATS:
        if not meeting:
            return array.astype(jnp.float32)
        return saturated(array) if careful and array.dtype == jnp.float32 else array.astype(jnp.bfloat16)
    if said.dtype not in INTEGERS:
        raise NotImplementedError(f"values of {said.dtype}")
    return array.astype(INTEGERS[said.dtype])


def as_unsupported(error: InconclusiveShape, path: str) -> Unsupported:
    """The error for a size that stays unknown although every axis was fixed."""
    return Unsupported(
        f"a size that must be known is not: {error}", where=path, mend="Replace this operator in the model"
    )
