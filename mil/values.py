"""What flows between operations: the value types, their carriers in torch, and an operation's named inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..targets.errors import SourceUnreadable

if TYPE_CHECKING:
    from .program import Operation

Tensor = torch.Tensor

Value = Any
"""A `Tensor`, a `str` (MIL strings: modes, dtypes, equations), or a tuple of these (variadic inputs, lists)."""

OpFunction = Callable[["Operation", "Inputs"], tuple[Value, ...]]
"""An operator: see the contract in `ops/__init__.py`."""

CARRIERS: dict[str, torch.dtype] = {
    "bool": torch.bool,
    **dict.fromkeys(("fp16", "fp32", "fp64", "bf16", "fp8e4m3fn", "fp8e5m2"), torch.float32),
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
    "uint64": torch.int64,
    "int4": torch.int8,
    **dict.fromkeys(("uint1", "uint2", "uint3", "uint4", "uint6"), torch.uint8),
}
"""MIL dtype to the torch dtype that carries it: every float in float32, small integers in the next byte."""

MAX_ELEMENTS = 1 << 29
"""Most elements of one value: what a damaged shape may not exceed (2 GiB of float32)."""


def stored(value: Value, dtype: str, rounding: bool) -> Value:
    """`value` in the carrier of `dtype`; with `rounding`, fp16 as a device stores it (beyond 65504 it is infinite).

    The only place where anything is rounded to float16.
    """
    if not isinstance(value, Tensor) or dtype not in CARRIERS:
        return value
    if rounding and dtype == "fp16":
        return value.half().float()
    return value.to(CARRIERS[dtype])


def fits(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    """Whether a value of `shape` is one of the `declared` type, None being any size."""
    return len(shape) == len(declared) and all(
        size is None or size == found for size, found in zip(declared, shape, strict=True)
    )


def bounded(shape: Iterable[int], what: str) -> tuple[int, ...]:
    """`shape` as a tuple, refused where a size is negative or the elements exceed `MAX_ELEMENTS`.

    For every operator whose output may be much larger than its inputs (fill, tile, pad, one_hot, ...);
    `what` names the operator and the field in the `SourceUnreadable` that is raised.
    """
    sizes = tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes) or math.prod(sizes) > MAX_ELEMENTS:
        raise SourceUnreadable(
            f"a value of shape {list(sizes)}, where at most {MAX_ELEMENTS} elements are computed", where=what
        )
    return sizes


class Inputs(Mapping[str, Value]):
    """The inputs of one operation by their MIL names; an absent optional input is simply not there.

    The readers take constants as Python values and fall back to `default`, the one of the MIL documentation.
    Reading an input that is absent and has no default raises `SourceUnreadable` naming it.
    """

    __slots__ = ("_values", "run", "where")

    def __init__(
        self,
        values: Mapping[str, Value],
        run: Callable[[int, Sequence[Value]], tuple[Value, ...]] | None = None,
        where: str = "",
    ) -> None:
        self._values = values
        self.run = run
        """`run(n, values)`: evaluates the operation's n-th nested block on its block inputs (cond, while_loop)."""
        self.where = where

    def __getitem__(self, name: str) -> Value:
        try:
            return self._values[name]
        except KeyError:
            raise SourceUnreadable(f"the input {name} is missing", where=self.where) from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def optional(self, name: str) -> Any:
        """The value, or None where it was not given."""
        return self._values.get(name)

    def many(self, name: str) -> tuple[Value, ...]:
        """A variadic input (`values` of concat, stack, einsum): always a tuple."""
        value = self[name]
        return value if isinstance(value, tuple) else (value,)

    def text(self, name: str, default: str | None = None) -> str:
        """A string; also one handed in as a tuple of one."""
        value = self._constant(name, default)
        return str(value[0] if isinstance(value, tuple) else value)

    def integer(self, name: str, default: int | None = None) -> int:
        """A scalar integer."""
        value = self._constant(name, default)
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """A scalar float."""
        value = self._constant(name, default)
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """A scalar bool."""
        value = self._constant(name, default)
        return bool(value)

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A vector of integers; a scalar gives a tuple of one."""
        value = self._constant(name, default)
        if isinstance(value, Tensor):
            return tuple(int(size) for size in value.reshape(-1).tolist())
        return tuple(value)

    def flags(self, name: str, default: Sequence[bool] | None = None) -> tuple[bool, ...]:
        """A vector of bools."""
        value = self._constant(name, default)
        if isinstance(value, Tensor):
            return tuple(bool(flag) for flag in value.reshape(-1).tolist())
        return tuple(value)

    def _constant(self, name: str, default: Any) -> Any:
        return self[name] if default is None else self._values.get(name, default)
