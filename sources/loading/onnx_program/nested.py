"""Operators that hold graphs: the branch that is taken and the rounds that are run become plain steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import helper

from ....targets.errors import Unsupported
from .call import Call

if TYPE_CHECKING:
    from .plan import Plan

MAX_STEPS = 20_000
"""Steps, and rounds of a loop, beyond which a program would be of no use."""

Values = Mapping[str, Any]
"""What the graph around knows, by name."""


def branch(plan: Plan, call: Call, values: Values) -> Sequence[Any]:
    """If: the branch that a known condition takes."""
    chosen = "then_branch" if _holds(call, call.inputs[0]) else "else_branch"
    return plan.run(call.attributes[chosen], {}, values)


def loop(plan: Plan, call: Call, values: Values) -> Sequence[Any]:
    """Loop: the values carried through all rounds, then the rows that the rounds made."""
    body, (count, condition, *carried) = call.attributes["body"], call.inputs
    if isinstance(count, torch.Tensor):
        raise Unsupported("its number of rounds depends on the model's inputs", where=call.where)
    rounds = None if count is None else int(count.reshape(-1)[0])
    names, made, index = [value.name for value in body.input], [], 0
    while (rounds is None or index < rounds) and (condition is None or _holds(call, condition)):
        if index == MAX_STEPS:
            raise Unsupported(f"more than {MAX_STEPS:,} rounds", where=call.where)
        given = dict(zip(names, [np.array(index), np.array(True), *carried], strict=True))
        condition, *results = plan.run(body, given, values)
        carried, rows = results[: len(carried)], results[len(carried) :]
        made.append(rows)
        index += 1
    if not made and call.outputs > len(carried):
        raise Unsupported("no round makes the rows of its outputs", where=call.where)
    return [*carried, *(_stacked(plan, rows, 0) for rows in zip(*made, strict=True))]


def scan(plan: Plan, call: Call, values: Values) -> Sequence[Any]:
    """Scan: the body over the slices of its last inputs; the states, then what the rounds made."""
    if call.opset < 9:
        raise call.refuse("of opset 8")
    body, count = call.attributes["body"], call.attributes["num_scan_inputs"]
    states, scanned = list(call.inputs[: len(call.inputs) - count]), call.inputs[len(call.inputs) - count :]
    made_count = len(body.output) - len(states)
    axes = call.get("scan_input_axes") or [0] * count
    rounds = scanned[0].shape[axes[0]]
    slices = [
        _slices(plan, value, axis, bool(backwards))
        for value, axis, backwards in zip(
            scanned, axes, call.get("scan_input_directions") or [0] * count, strict=True
        )
    ]
    names, made = [value.name for value in body.input], []
    for index in range(rounds):
        given = dict(zip(names, [*states, *(each[index] for each in slices)], strict=True))
        results = plan.run(body, given, values)
        states = results[: len(states)]
        made.append(results[len(states) :])
    if not made and made_count:
        raise Unsupported("no round makes the rows of its outputs", where=call.where)
    rows = [list(each) for each in zip(*made, strict=True)]
    backwards = call.get("scan_output_directions") or [0] * made_count
    rows = [each[::-1] if back else each for each, back in zip(rows, backwards, strict=True)]
    axes = call.get("scan_output_axes") or [0] * made_count
    return [*states, *(_stacked(plan, each, axis) for each, axis in zip(rows, axes, strict=True))]


def _holds(call: Call, condition: Any) -> bool:
    if isinstance(condition, torch.Tensor):
        raise Unsupported("the condition depends on the model's inputs", where=call.where)
    return bool(condition.reshape(-1)[0])


def _slices(plan: Plan, value: Any, axis: int, backwards: bool) -> list[Any]:
    """The slices along `axis`, in the order in which they are read."""
    places = range(value.shape[axis])
    values = {"value": value}
    for place in places:
        values[f"place {place}"] = np.array(place)
        plan.node(
            helper.make_node("Gather", ["value", f"place {place}"], [f"slice {place}"], axis=axis), values
        )
    return [values[f"slice {place}"] for place in (reversed(places) if backwards else places)]


def _stacked(plan: Plan, rows: Sequence[Any], axis: int) -> Any:
    """One array or tensor of the rows, along a new axis."""
    values = {f"row {index}": row for index, row in enumerate(rows)} | {"axes": np.array([axis])}
    wide = [f"wide {index}" for index in range(len(rows))]
    for index, name in enumerate(wide):
        plan.node(helper.make_node("Unsqueeze", [f"row {index}", "axes"], [name]), values)
    plan.node(helper.make_node("Concat", wide, ["stacked"], axis=axis), values)
    return values["stacked"]


NESTED: Mapping[str, Callable[[Plan, Call, Values], Sequence[Any]]] = {
    "If": branch,
    "Loop": loop,
    "Scan": scan,
}
"""Each takes the plan, the node, and the values of the graph around it."""
