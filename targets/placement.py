"""Which of a device's engines computes an operator, and at which rate: the first that runs it in its dtype."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .card import QuantScheme
from .device import Device, Rate
from .engines import Leave, find_engine
from .facts import OpFact

CLASS_KINDS = {"recurrent": "lstm", "embedding": "gather"}
"""Classes of which every operator is of one kind in ML programs, whatever the source calls it."""


@dataclass(frozen=True)
class Place:
    """Where one operator runs; `rate` is None where no engine has a rate for it."""

    engine: str
    rate: Rate | None
    left: Leave | None = None
    """Why it is not on the preferred engine, where a table says so."""


@dataclass
class Placed:
    """How many operators run where."""

    operators: Counter[str] = field(default_factory=Counter)
    left: Counter[tuple[str, Leave]] = field(default_factory=Counter)
    """Operators by the source's name that an engine's table leaves to others."""


def place(op: OpFact, dtype: str, device: Device, units: Sequence[str] = ()) -> Place:
    """Where `op` runs when it computes in `dtype`, on one of `units` (engines, preferred first; empty: all).

    Core ML decides by a cost model of its own, which is not published: this takes the first engine whose table
    does not say no and that computes in the dtype, which is what a model is written for.
    """
    left: Leave | None = None
    names = [name for name in units or device.engines if name in device.engines]
    for name in names:
        engine = find_engine(name)
        if engine is not None:
            leave = engine.leaving(op.kind) or engine.leaving(CLASS_KINDS.get(op.op_class, ""))
            left = left or leave
            if leave is not None or dtype not in engine.dtypes:
                continue
        return Place(name, device.engine_rate(name, dtype), left)
    return Place(names[-1] if names else "", None, left)


def narrow(dtype: str, scheme: QuantScheme) -> str:
    """The dtype of operators without weights on engines: half, where the scheme stores the rest in half."""
    halves = dtype == "float32" and scheme.compute != "float32" and scheme.vector_bits == 16
    return "float16" if halves else dtype
