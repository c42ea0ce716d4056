"""The program of a package: functions, blocks and operations, with their constants resolved to stored bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..targets.errors import Unsupported

if TYPE_CHECKING:
    import numpy as np


class UnknownOperator(Unsupported):
    """An operator, or a mode of one, that the evaluator does not know: the model is not checked."""

    name: str = ""
    operator: str = ""

    @classmethod
    def at(cls, name: str, operator: str) -> UnknownOperator:
        """The error for operation `name` of op type `operator`."""
        error = cls(
            f"the evaluator does not know the operator {operator}",
            where=f"operation {name}",
            mend="The model is not checked; on a Mac Core ML itself checks it.",
        )
        error.name, error.operator = name, operator
        return error

    def __reduce__(self) -> tuple[object, ...]:
        return (UnknownOperator.at, (self.name, self.operator))


@dataclass(frozen=True)
class ValueType:
    """A MIL type: `kind` is "tensor", "state" (a tensor kept between runs), "list" or "other"."""

    dtype: str
    """MIL's name: fp16, fp32, int32, bool, string, uint4, ..."""
    shape: tuple[int | None, ...] = ()
    """None where a size is known at run time only."""
    kind: str = "tensor"
    variadic: bool = False
    """Even the number of axes is known at run time only."""


@dataclass(frozen=True)
class NamedType:
    """An input or output of a function, block or operation."""

    name: str
    type: ValueType


@dataclass(frozen=True)
class Reference:
    """An argument that is another operation's output or an input."""

    name: str


@dataclass(frozen=True)
class Constant:
    """A value in the program itself or in the weight file, read when asked for."""

    type: ValueType
    load: Callable[[], np.ndarray[Any, Any] | str | tuple[Any, ...]] = field(repr=False, compare=False)
    """The array (shape and dtype as declared; sub-byte integers unpacked to bytes), string, or tuple of these."""
    nbytes: int = 0
    """Bytes it takes where it is stored."""


@dataclass(frozen=True)
class Operation:
    """One operation; `inputs` maps a MIL input name to its arguments (several for a variadic one)."""

    type: str
    name: str
    inputs: Mapping[str, tuple[Reference | Constant, ...]]
    outputs: tuple[NamedType, ...]
    blocks: tuple[Block, ...] = ()
    attributes: Mapping[str, Constant] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Operations in the order of their execution; `outputs` name values of the block."""

    inputs: tuple[NamedType, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Function:
    """A function: its `block` is the one of its own opset (CoreML5 for iOS15 to CoreML8 for iOS18)."""

    name: str
    opset: str
    inputs: tuple[NamedType, ...]
    block: Block


@dataclass(frozen=True)
class Program:
    """All functions of a package; `main` is the one that runs by default."""

    functions: Mapping[str, Function]
    default: str = "main"

    @property
    def main(self) -> Function:
        """The function that runs by default."""
        return self.functions[self.default]
