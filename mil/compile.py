"""Prepares a program to run: constants and constexpr results computed once, and when each value dies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..targets.errors import ModelportError, SourceUnreadable
from .ops import OPS
from .program import Block, Constant, Operation, Reference, UnknownOperator
from .values import CARRIERS, Inputs, OpFunction, Tensor, Value, bounded, fits, stored


@dataclass(frozen=True)
class Step:
    """One operation, ready to be called with the values that it takes at run time."""

    operation: Operation
    function: OpFunction
    constants: Mapping[str, Value]
    """Inputs that never change, by input name."""
    runtime: tuple[tuple[str, str], ...]
    """(input name, value name) of the others."""
    mixed: Mapping[str, tuple[Value | Reference, ...]]
    """Variadic inputs of which some are known at run time only."""
    blocks: tuple[Code, ...]
    dead: tuple[str, ...]
    """Names of values that no later step of the block takes."""


@dataclass(frozen=True)
class Code:
    """A block as steps; `captured` are the names that it takes from the blocks around it."""

    block: Block
    steps: tuple[Step, ...]
    constants: Mapping[str, Value]
    """Outputs of the block that are constants."""
    captured: frozenset[str]


def compile_block(block: Block, rounding: bool, outer: Mapping[str, Value] | None = None) -> Code:
    """The block's steps; `outer` holds the constants of the blocks around it, `rounding` is for `values.stored`.

    Raises UnknownOperator for the first operation that the evaluator does not know, before anything runs.
    """
    constants: dict[str, Value] = dict(outer or {})
    steps: list[Step] = []
    for operation in block.operations:
        if operation.type == "const":
            constants[operation.outputs[0].name] = constant_value(operation.attributes, operation)
            continue
        if operation.type not in OPS:
            raise UnknownOperator.at(operation.name, operation.type)
        step = _step(operation, rounding, constants)
        if operation.type.startswith("constexpr_"):
            results = call(step, Inputs(step.constants, None, operation.name), rounding)
            constants |= zip((output.name for output in operation.outputs), results, strict=True)
        else:
            steps.append(step)
    own = {name: constants[name] for name in block.outputs if name in constants}
    return Code(block, _with_deaths(steps, block), own, _captured(steps, block, own))


def constant_value(attributes: Mapping[str, Constant], operation: Operation) -> Value:
    """The value of a `const` operation, its attribute `val`."""
    if "val" not in attributes:
        raise SourceUnreadable("a constant without a value", where=f"operation {operation.name}")
    return carried(attributes["val"])


def carried(constant: Constant) -> Value:
    """A constant as the operators take it: see `values.CARRIERS`. A view of the stored bytes where it can be."""
    return _carried(constant.load(), constant.type.dtype)


def _carried(value: Any, dtype: str) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return tuple(_carried(item, dtype) for item in value)
    if str(value.dtype).startswith("uint") and value.dtype.itemsize > 1:
        value = value.astype("int64")
    return torch.from_numpy(value).to(CARRIERS.get(dtype, torch.float32))


def call(step: Step, inputs: Inputs, rounding: bool) -> tuple[Value, ...]:
    """The step's results, stored as their declared types.

    Raises SourceUnreadable, naming the operation, where torch refuses its inputs or the results are not as declared.
    """
    operation = step.operation
    try:
        results = step.function(operation, inputs)
    except ModelportError:
        raise
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        fact = f"{operation.type} cannot be computed: {str(error).strip().splitlines()[0][:300]}"
        raise SourceUnreadable(fact, where=f"operation {operation.name}") from error
    if len(results) < len(operation.outputs):
        fact = f"{operation.type} gives {len(results)} values, {len(operation.outputs)} are declared"
        raise SourceUnreadable(fact, where=f"operation {operation.name}")
    for result, output in zip(results, operation.outputs, strict=False):
        known = isinstance(result, Tensor) and not output.type.variadic
        if known and not fits(tuple(result.shape), output.type.shape):
            fact = f"{operation.type} gives {list(result.shape)}, {list(output.type.shape)} is declared"
            raise SourceUnreadable(fact, where=f"operation {operation.name}: {output.name}")
    return tuple(
        stored(result, output.type.dtype, rounding)
        for result, output in zip(results, operation.outputs, strict=False)
    )


def _step(operation: Operation, rounding: bool, constants: Mapping[str, Value]) -> Step:
    for output in operation.outputs:
        if output.type.kind == "tensor":
            bounded((size or 1 for size in output.type.shape), f"operation {operation.name}")
    fixed: dict[str, Value] = {}
    runtime: list[tuple[str, str]] = []
    mixed: dict[str, tuple[Value | Reference, ...]] = {}
    for name, arguments in operation.inputs.items():
        values = tuple(_resolved(argument, constants) for argument in arguments)
        if not any(isinstance(value, Reference) for value in values):
            fixed[name] = values[0] if len(values) == 1 else values
        elif len(values) == 1:
            runtime.append((name, values[0].name))
        else:
            mixed[name] = values
    if operation.type.startswith("constexpr_"):
        # iOS16 and 17 write the inputs of these as attributes.
        fixed |= {name: carried(value) for name, value in operation.attributes.items() if name != "name"}
    blocks = tuple(compile_block(block, rounding, constants) for block in operation.blocks)
    return Step(operation, OPS[operation.type], fixed, tuple(runtime), mixed, blocks, ())


def _resolved(argument: Reference | Constant, constants: Mapping[str, Value]) -> Any:
    if isinstance(argument, Constant):
        return carried(argument)
    return constants.get(argument.name, argument)


def taken(step: Step) -> set[str]:
    """Names of the values that the step and its nested blocks take at run time."""
    names = {value for _, value in step.runtime}
    names.update(v.name for values in step.mixed.values() for v in values if isinstance(v, Reference))
    for code in step.blocks:
        names |= code.captured
    return names


def _with_deaths(steps: list[Step], block: Block) -> tuple[Step, ...]:
    """The steps with their `dead` names: found from the end, so that a value dies at its last use."""
    needed = set(block.outputs)
    finished: list[Step] = []
    for step in reversed(steps):
        names = taken(step) | {output.name for output in step.operation.outputs}
        finished.append(replace(step, dead=tuple(sorted(names - needed))))
        needed |= names
    return tuple(reversed(finished))


def _captured(steps: list[Step], block: Block, constants: Mapping[str, Value]) -> frozenset[str]:
    own = {given.name for given in block.inputs} | set(constants)
    own.update(output.name for step in steps for output in step.operation.outputs)
    names = {name for step in steps for name in taken(step)} | set(block.outputs)
    return frozenset(names - own)


Watch = Callable[[str, Any], None]
"""Called with the name and the array of every value that is computed."""
