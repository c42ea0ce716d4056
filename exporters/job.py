"""The two values that cross a process boundary, as JSON: what a worker shall do, and what it did."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)`: called by a step as it goes; the parent draws it."""


@dataclass(frozen=True)
class Port:
    """How one input or output of the artifact answers to the source's.

    `source` is the source's name, `artifact` the artifact's. `permutation` is the axis order that turns the
    source's array into the artifact's (`numpy.transpose`), empty when the layout is the same. Where the artifact
    takes an image and computes the source's values from its pixels, by channel (axis 1): value = pixel * scale + bias.
    """

    source: str
    artifact: str
    permutation: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()

    @classmethod
    def read(cls, raw: Iterable[Mapping[str, Any]]) -> tuple[Port, ...]:
        """Ports as JSON gives them: a list of objects."""
        return tuple(
            cls(
                port["source"],
                port["artifact"],
                tuple(port["permutation"]),
                tuple(port.get("scale", ())),
                tuple(port.get("bias", ())),
            )
            for port in raw
        )


@dataclass(frozen=True)
class Job:
    """One piece of work for a worker process: steps to run in order, each `module:function`.

    Paths are strings because they travel as JSON. `staging` is the folder whose content will be published,
    `work` a private scratch folder that vanishes with the job, `samples` the folder that
    `calibration.dataset` wrote (None when there is no data).
    """

    steps: tuple[str, ...]
    source_kind: str
    source_path: str
    target: str
    runtime: str
    quant: str
    staging: str
    work: str
    samples: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the user that a step may read: layout, sequence, opset, observer, seed, threads..."""

    def to_json(self) -> str:
        """This job as one JSON document."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that `to_json` wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "steps": tuple(raw["steps"])})


@dataclass(frozen=True)
class Outcome:
    """What one step did. `files` are relative to the job's staging folder, the artifact first."""

    files: tuple[str, ...] = ()
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences for the report: routes taken, fallbacks, whatever a user should know."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Figures of the step (JSON values), as in {"latency_ms": {"p50": 1.0}}."""

    def to_json(self) -> str:
        """This outcome as one JSON document."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The outcome that `to_json` wrote."""
        raw = json.loads(text)
        for side in ("inputs", "outputs"):
            raw[side] = Port.read(raw[side])
        return cls(**{**raw, "files": tuple(raw["files"]), "notes": tuple(raw["notes"])})
