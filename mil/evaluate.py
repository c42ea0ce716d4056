"""Runs a program: values in float32, rounded to float16 after every operation where the program says fp16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ..targets.errors import SourceUnreadable, UsageError
from .compile import Code, Step, Watch, call, compile_block
from .program import NamedType, Program, Reference
from .values import CARRIERS, Inputs, Tensor, Value, bounded, fits, stored

if TYPE_CHECKING:
    import numpy as np


class Evaluator:
    """One function of a program, ready to run.

    `rounding` keeps float16 values as a device would store them (overflow becomes infinite); without it all is
    float32. Constants and constexpr results are computed here, once. `function` is the default one if not named.

    Raises UnknownOperator naming the first operation that is not known.
    """

    def __init__(
        self, program: Program, *, rounding: bool = True, threads: int | None = None, function: str = ""
    ) -> None:
        self._function = program.functions[function or program.default]
        self._rounding = rounding
        self._threads = threads
        with torch.inference_mode():
            self._code = compile_block(self._function.block, rounding)
        self._states: dict[str, Tensor] = {}
        self.reset()

    @property
    def inputs(self) -> tuple[NamedType, ...]:
        """Inputs with their MIL types; None in a shape is a free size. States are not among them."""
        return tuple(given for given in self._function.inputs if given.type.kind != "state")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return self._function.block.outputs

    @property
    def states(self) -> Mapping[str, Tensor]:
        """The states' values after the last run."""
        return self._states

    def reset(self) -> None:
        """Set every state to zeros, as a new state of an app is."""
        self._states = {
            given.name: torch.zeros(
                bounded((size or 1 for size in given.type.shape), f"state {given.name}"),
                dtype=CARRIERS[given.type.dtype],
            )
            for given in self._function.inputs
            if given.type.kind == "state"
        }

    def run(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], watch: Watch | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """One inference: arrays by input name to arrays by output name (floats as float32).

        `watch(name, array)` sees every computed value, rounded if `rounding`. Raises UsageError for feeds that do
        not fit the inputs, SourceUnreadable where an operation cannot be computed.
        """
        values: dict[str, Value] = dict(self._states)
        for given in self.inputs:
            values[given.name] = stored(_fed(given, feeds), given.type.dtype, self._rounding)
        with torch.inference_mode(), _threads(self._threads):
            results = self._block(self._code, values, watch)
            return {
                name: _array(value) for name, value in zip(self._code.block.outputs, results, strict=True)
            }

    def _block(self, code: Code, values: dict[str, Value], watch: Watch | None) -> tuple[Value, ...]:
        for step in code.steps:
            results = call(step, self._inputs(step, values, watch), self._rounding)
            for output, result in zip(step.operation.outputs, results, strict=True):
                values[output.name] = result
                if watch is not None and isinstance(result, Tensor):
                    watch(output.name, result.numpy())
            for name in step.dead:
                values.pop(name, None)
        return tuple(
            code.constants[name] if name in code.constants else values[name] for name in code.block.outputs
        )

    def _inputs(self, step: Step, values: Mapping[str, Value], watch: Watch | None) -> Inputs:
        given = dict(step.constants)
        for name, value in step.runtime:
            given[name] = values[value]
        for name, several in step.mixed.items():
            given[name] = tuple(values[v.name] if isinstance(v, Reference) else v for v in several)

        def run(n: int, arguments: Sequence[Value]) -> tuple[Value, ...]:
            code = step.blocks[n]
            inner = {name: values[name] for name in code.captured}
            inner |= zip((named.name for named in code.block.inputs), arguments, strict=True)
            return self._block(code, inner, watch)

        return Inputs(given, run, step.operation.name)


def _fed(given: NamedType, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Tensor:
    import numpy as np

    if given.name not in feeds:
        raise UsageError("no value is given", where=f"input {given.name}", mend=f"Given are {sorted(feeds)}.")
    array = np.asarray(feeds[given.name], order="C")
    declared = given.type.shape
    if not fits(array.shape, declared):
        raise UsageError(
            f"a value of shape {list(array.shape)} is given, {list(declared)} is declared",
            where=f"input {given.name}",
        )
    if given.type.dtype not in CARRIERS:
        raise SourceUnreadable(f"inputs of {given.type.dtype} are not read", where=f"input {given.name}")
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array)


def _array(value: Value) -> Any:
    import numpy as np

    if isinstance(value, Tensor):
        return value.contiguous().numpy()
    return np.array(value)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
