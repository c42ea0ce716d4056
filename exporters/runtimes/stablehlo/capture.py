"""A torch model as an exported program in torch's core operators, free axes left free where that can be."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ....sources.loading.torch_model import two
from ....targets.errors import Unsupported
from ...torch_nodes import first_line
from .operators import KEPT

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from ....sources.loading.torch_model import TorchModel

Shape = tuple[int | str, ...]
"""Lengths of axes: a number, or JAX's expression of a free one, as in "batch" or "2*sequence"."""


@dataclass(frozen=True)
class Captured:
    """The program, and the shape of each of its inputs by placeholder name."""

    program: ExportedProgram
    inputs: Mapping[str, Shape]
    """In the model's own order."""
    limits: tuple[str, ...]
    """What is known of free axes, as JAX takes it: "sequence <= 512"."""
    fixed: tuple[str, ...]
    """Axes that the source leaves free and torch does not, as in "input_ids axis 1"."""


def capture(model: TorchModel, path: str, *, free: bool = True) -> Captured:
    """The model through torch.export; with `free`, the source's free axes stay free unless torch fixes them.

    An axis that torch fixes keeps the example's size. Raises Unsupported where torch cannot capture the model.
    """
    wanted = {
        name: dict(axes)
        for name, axes in (model.dynamic.items() if free else ())
        if name in model.input_names
    }
    program = _export(model, wanted, path)
    kept = {name: _kept(program, model, name, axes) for name, axes in wanted.items()}
    if kept != wanted:
        program = _export(model, kept, path)
    fixed = tuple(
        f"{name} axis {axis}"
        for name, axes in model.dynamic.items()
        for axis in axes
        if axis not in kept.get(name, {})
    )
    symbols = _symbols(program, model, kept)
    shapes = {
        node.name: tuple(_length(size, symbols) for size in node.meta["val"].shape)
        for node in _placeholders(program)
    }
    return Captured(_core(program, path), shapes, _limits(program, symbols), fixed)


def _export(model: TorchModel, free: Mapping[str, Mapping[int, str]], path: str) -> ExportedProgram:
    shapes = tuple(dict.fromkeys(free.get(name, {}), torch.export.Dim.AUTO) for name in model.input_names)
    example = tuple(
        two(tensor, free.get(name, {})) for name, tensor in zip(model.input_names, model.example, strict=True)
    )
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(
                model.module, example, dynamic_shapes=(shapes,) if any(shapes) else None, strict=False
            )
    except Exception as error:  # torch raises whatever the model's own code met
        raise Unsupported(
            f"torch.export cannot capture the model: {first_line(error)}",
            where=path,
            mend="Replace control flow that depends on values",
        ) from error


def _placeholders(program: ExportedProgram) -> list[Any]:
    names = set(program.graph_signature.user_inputs)
    return [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]


def _kept(program: ExportedProgram, model: TorchModel, name: str, axes: Mapping[int, str]) -> dict[int, str]:
    """Those of the axes that torch left free, or tied to another one in a way that JAX can say."""
    node = _placeholders(program)[model.input_names.index(name)]
    return {
        axis: symbol for axis, symbol in axes.items() if not isinstance(node.meta["val"].shape[axis], int)
    }


def _symbols(
    program: ExportedProgram, model: TorchModel, free: Mapping[str, Mapping[int, str]]
) -> dict[str, str]:
    """The source's word for each of torch's symbols, as in {"s77": "batch"}; two symbols of one word are one size."""
    words: dict[str, str] = {}
    for name, node in zip(model.input_names, _placeholders(program), strict=True):
        for axis, word in free.get(name, {}).items():
            symbol = str(node.meta["val"].shape[axis].node.expr)
            if re.fullmatch(r"\w+", symbol):
                words.setdefault(symbol, re.sub(r"\W", "_", word))
    return words


def _length(size: Any, symbols: Mapping[str, str]) -> int | str:
    if isinstance(size, int):
        return size
    return re.sub(r"[A-Za-z_]\w*", lambda found: symbols.get(found[0], found[0]), str(size.node.expr))


def _limits(program: ExportedProgram, symbols: Mapping[str, str]) -> tuple[str, ...]:
    """Bounds that the model sets to free axes; torch's own least of 2 is none."""
    found = []
    for expression, bounds in program.range_constraints.items():
        word = symbols.get(str(expression))
        if word is None:
            continue
        if bounds.upper.is_Integer and int(bounds.upper) < 2**31 - 1:
            found.append(f"{word} <= {int(bounds.upper)}")
        if bounds.lower.is_Integer and int(bounds.lower) > 2:
            found.append(f"{word} >= {int(bounds.lower)}")
    return tuple(found)


def _core(program: ExportedProgram, path: str) -> ExportedProgram:
    """The program in torch's core operators, but for those that stay whole (`operators.KEPT`)."""
    table = torch.export.default_decompositions()
    for name in KEPT:
        _, packet, overload = name.split(".")
        table.pop(getattr(getattr(torch.ops.aten, packet), overload), None)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return program.run_decompositions(table)
    except Exception as error:
        raise Unsupported(
            f"torch cannot take the model apart into its core operators: {first_line(error)}",
            where=path,
        ) from error
