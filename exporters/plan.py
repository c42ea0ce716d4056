"""What will be done and why, decided from facts alone: a printable list of stages, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..targets import registry
from ..targets.card import QuantScheme, Target
from ..targets.errors import Unsupported, UsageError
from ..targets.facts import ModelFacts


@dataclass(frozen=True)
class Stage:
    """One stage and the reason why it stands in the plan."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The stages of one conversion for people, and the worker's steps that carry them out."""

    stages: tuple[Stage, ...]
    runtime_module: str
    """The exporter's module, by its full name."""

    @property
    def export(self) -> str:
        """The exporter's step."""
        return f"{self.runtime_module}:export"

    @property
    def steps(self) -> tuple[str, ...]:
        """What the worker does, in order."""
        return (REQUIREMENTS, PREPARE, REFERENCE, self.export, VERSIONS)


REQUIREMENTS = ".exporters.requirements:check"
PREPARE = ".exporters.prepare:run"
REFERENCE = ".verification.steps:reference"
VERSIONS = ".exporters.versions:loaded"
COMPARE = ".verification.steps:compare"


def refuse_scheme(facts: ModelFacts, scheme: QuantScheme, target: Target) -> None:
    """Raise Unsupported where the scheme would leave most of this model's weights in float."""
    counted = sum(op.weights for op in facts.ops)
    if scheme.conv_bits is None or scheme.conv_bits < 16 or scheme.weight_bits >= 16 or not counted:
        return
    convolutions = [op for op in facts.ops if op.op_class in ("conv", "depthwise")]
    left = sum(op.weights for op in convolutions) / counted
    if left <= 0.5:
        return
    others = [
        other.name for other in target.schemes.values() if other.weights == "int8" and other.conv_bits is None
    ]
    raise Unsupported(
        f"{scheme.name} would leave {left:.0%} of this model's weights in float: it does not reach convolutions",
        where=f"--quant {scheme.name}",
        mend=f"These schemes reach them: {', '.join(others)}" if others else "",
    )


READ_BY: Mapping[str, tuple[str, ...]] = {"layout": ("litert",), "opset": ("onnxruntime",)}
"""Options that only these of modelport's own runtimes read; what a plug-in reads is not known here."""


def refuse_unread(target: Target, scheme: QuantScheme, given: Mapping[str, object]) -> None:
    """Raise UsageError for an option, by name and value, that would change nothing without a word."""
    own = {runtime for readers in READ_BY.values() for runtime in readers}
    for option, runtimes in READ_BY.items():
        if given.get(option) is not None and target.runtime in own and target.runtime not in runtimes:
            raise UsageError(
                f"{target.name} does not read it, and keeps the source's",
                where=f"--{option}",
                mend="Leave it out",
            )
    if given.get("observer") is not None and scheme.calibration == "none":
        raise UsageError(
            f"{scheme.name} measures no activation ranges", where="--observer", mend="Leave it out"
        )


def make_plan(target: Target, scheme: QuantScheme, *, calibrated: bool) -> Plan:
    """The plan of one conversion; raises Unsupported where this version has no exporter for the target."""
    module = registry.runtime_module(target.runtime)
    data = "the user's samples" if calibrated else "seeded random inputs, since no data was given"
    stages = (
        Stage("prepare samples", f"{data}; held-out ones are kept for verification"),
        Stage("run the source", "reference outputs, before the exporter touches anything"),
        Stage(f"export to {target.format}", f"{scheme.title} by runtime {target.runtime!r}"),
        Stage("audit and verify", "the written file is opened again, counted, run and compared"),
        Stage("publish", "one atomic rename, with manifest.json and report.html"),
    )
    return Plan(stages, module)
