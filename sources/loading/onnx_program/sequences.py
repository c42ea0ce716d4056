"""Sequences of tensors: a program has none, so they are known lists whose members may depend on the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from .call import Call

if TYPE_CHECKING:
    from .plan import Plan

Values = Mapping[str, Any]


def _place(call: Call, index: int, last: int) -> int:
    """A position that is counted from the end where it is negative; `last` where it is left out."""
    if not call.has(index):
        return last
    place = int(call.known(index).reshape(-1)[0])
    size = len(call.inputs[0])
    if not -size <= place <= last:
        raise call.refuse(f"at {place}, of {size} members")
    return place + size if place < 0 else place


def _insert(plan: Plan, call: Call, values: Values) -> Sequence[Any]:
    members = list(call.inputs[0])
    members.insert(_place(call, 2, len(members)), call.inputs[1])
    return [members]


def _erase(plan: Plan, call: Call, values: Values) -> Sequence[Any]:
    place = _place(call, 1, len(call.inputs[0]) - 1)
    return [[member for index, member in enumerate(call.inputs[0]) if index != place]]


def _at(plan: Plan, call: Call, values: Values) -> Sequence[Any]:
    return [call.inputs[0][_place(call, 1, len(call.inputs[0]) - 1)]]


def _split(plan: Plan, call: Call, values: Values) -> Sequence[Any]:
    """Into parts of the sizes given, of one size, or of one each, whose axis may be dropped then."""
    x, axis = call.inputs[0], call.get("axis", 0)
    length, kept = x.shape[axis], call.has(1) or call.get("keepdims", 1)
    given = call.known(1) if call.has(1) else np.array(1)
    sizes = given.tolist() if given.ndim else [int(given)] * (length // int(given))
    sizes += [length - sum(sizes)] if sum(sizes) < length else []
    scope = {"x": x, "sizes": np.array(sizes), "axis": np.array([axis])}
    names = [f"part {index}" for index in range(len(sizes))]
    plan.node(helper.make_node("Split", ["x", "sizes"], names, axis=axis), scope)
    if not kept:
        for name in names:
            plan.node(helper.make_node("Squeeze", [name, "axis"], [f"{name} alone"]), scope)
        names = [f"{name} alone" for name in names]
    return [[scope[name] for name in names]]


def _concat(plan: Plan, call: Call, values: Values) -> Sequence[Any]:
    """One tensor, along an axis that is there or a new one."""
    axis = call.get("axis", 0)
    scope: dict[str, Any] = {f"member {index}": value for index, value in enumerate(call.inputs[0])}
    names, scope["axis"] = list(scope), np.array([axis])
    if call.get("new_axis", 0):
        for name in names:
            plan.node(helper.make_node("Unsqueeze", [name, "axis"], [f"{name} wide"]), scope)
        names = [f"{name} wide" for name in names]
    plan.node(helper.make_node("Concat", names, ["whole"], axis=axis), scope)
    return [scope["whole"]]


SEQUENCES: Mapping[str, Callable[[Plan, Call, Values], Sequence[Any]]] = {
    "SequenceEmpty": lambda plan, call, values: [[]],
    "SequenceConstruct": lambda plan, call, values: [list(call.inputs)],
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceAt": _at,
    "SequenceLength": lambda plan, call, values: [np.array(len(call.inputs[0]))],
    "SplitToSequence": _split,
    "ConcatFromSequence": _concat,
}
"""Each takes the plan, the node, and the values of the graph around it, as those that hold graphs do."""
