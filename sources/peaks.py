"""Where most activations are alive at once, in a runtime that fuses what works element by element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..targets.facts import PeakFact
from .flops import Step, lifetimes

FUSED = frozenset({"norm", "elementwise"})
"""Classes that become part of the operator before them where they read nothing else that was computed."""


def find(steps: Sequence[Step], inputs: Mapping[str, int], outputs: Iterable[str]) -> PeakFact | None:
    """The peak of `steps` run in order, as `flops.liveness` counts it, but with fused operators in place.

    None for a graph whose steps carry no sizes.
    """
    given = frozenset(inputs)
    ends = frozenset(outputs)
    steps = _fuse(steps, ends)
    storage, size, last_use = lifetimes(steps, inputs, ends)
    alive = set(given)
    best: PeakFact | None = None
    floor = 0
    for index, step in enumerate(steps):
        made = {storage[name] for name in step.outputs}
        alive |= made
        total = sum(size[name] for name in alive)
        if not step.alias:
            read = {storage[name] for name in step.inputs if name in storage}
            floor = max(floor, sum(size[name] for name in read | made))
        if alive and (best is None or total > best.elements):
            largest = max(alive, key=lambda name: (size[name], name))
            best = PeakFact(total, step.name, step.kind, largest, size[largest], 0)
        alive -= {name for name in alive if last_use[name] <= index}
    return None if best is None else replace(best, floor=floor)


def _fuse(steps: Sequence[Step], ends: frozenset[str]) -> list[Step]:
    """The steps, with those that a runtime fuses marked as views of what they read.

    Such a step reads one computed value, of the size that it writes, and nothing else reads that value.
    """
    readers: dict[str, int] = {}
    made: dict[str, int] = {}
    for step in steps:
        for name in set(step.inputs):
            readers[name] = readers.get(name, 0) + 1
        made.update(step.outputs)
    fused = []
    for step in steps:
        computed = [name for name in dict.fromkeys(step.inputs) if name in made]
        alone = (
            step.op_class in FUSED
            and len(computed) == 1
            and readers[computed[0]] == 1
            and computed[0] not in ends
            and tuple(step.outputs.values()) == (made[computed[0]],)
        )
        fused.append(replace(step, inputs=computed, alias=True) if alone else step)
    return fused
