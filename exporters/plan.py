"""What will be done and why, decided from facts alone: a printable list of stages, or a refusal."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
    """The stages of one conversion for people, and the workers' steps that carry them out."""

    stages: tuple[Stage, ...]
    runtime_module: str
    """The exporter's module, by its full name."""
    workers: tuple[tuple[str, ...], ...]
    """The steps of each worker, in order; the last worker writes the artifact."""
    export: str
    """The step that writes the artifact."""
    prepare: str
    """The step that writes the samples."""
    reference: str
    """The step that runs the source."""
    verifiers: tuple[tuple[str, ...], ...]
    """The steps of each worker that looks at what was written."""
    compare: str
    """The last of them: it runs and counts the artifact."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Every step of every worker, in order."""
        return tuple(step for worker in (*self.workers, *self.verifiers) for step in worker)


REQUIREMENTS = ".exporters.requirements:check"
PREPARE = ".exporters.prepare:run"
REFERENCE = ".verification.steps:reference"
VERSIONS = ".exporters.versions:loaded"
COMPARE = ".verification.steps:compare"

WINDOWS = ".exporters.prepare_language:run"
LANGUAGE_REFERENCE = ".verification.language:source"
LANGUAGE_COMPARE = ".verification.language:compare"

LOOKING = {"arrays": (REFERENCE, COMPARE), "language": (LANGUAGE_REFERENCE, LANGUAGE_COMPARE)}
"""The steps that run the source and the artifact, by a card's `verify`."""


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


def refuse_operators(facts: ModelFacts, target: Target) -> None:
    """Raise Unsupported where the model computes with text, or has operators that the target's runtime lacks."""
    texts = [f"input {io.name}" for io in facts.inputs if io.dtype == "string"]
    texts += [f"operator {op.kind} (in {op.name})" for op in facts.ops if re.search(TEXT, op.kind)]
    if texts:
        raise Unsupported(
            f"{texts[0]} holds text, and no target computes with text",
            mend="Save the model behind its text layers, so that it takes numbers",
        )
    lacking = {op.kind: op.name for op in facts.ops for part in target.lacks if part in op.kind.lower()}
    if lacking:
        named = ", ".join(f"{kind} (in {name})" for kind, name in sorted(lacking.items())[:4])
        raise Unsupported(
            f"{target.name} has no kernel for {named}",
            mend="Rewrite that part of the model, or choose target android for a phone or a board with Linux",
        )


TEXT = r"String|Regex|Utf8|Unicode"
"""What the names of operators on text have in them, in TensorFlow and in ONNX."""

READ_BY: Mapping[str, tuple[str, ...]] = {
    "layout": ("litert", "tflite_micro"),
    "fit": ("tflite_micro",),
    "offline_plan": ("tflite_micro",),
    "opset": ("onnxruntime", "tensorrt"),
    "imatrix": ("gguf",),
    "via": ("gguf",),
    "two_step": ("gguf",),
    "requantize": ("gguf",),
    "prompt": ("gguf",),
    "chat_template": ("gguf", "vllm"),
    "resume": ("vllm",),
    "kv_type": ("gguf",),
    "tensor_parallel": ("vllm",),
    "deployment_target": ("coreml",),
    "compute_units": ("coreml",),
    "shapes": ("coreml", "tensorrt"),
    "workspace": ("tensorrt",),
    "timing_cache": ("tensorrt",),
    "version_compatible": ("tensorrt",),
    "hardware_compatible": ("tensorrt",),
    "builder_level": ("tensorrt",),
    "image_input": ("coreml",),
    "labels": ("coreml",),
    "metadata": ("coreml",),
    "mesh": ("stablehlo",),
}
"""Options that only these of modelport's own runtimes read; what a plug-in reads is not known here."""


def refuse_unread(target: Target, scheme: QuantScheme, given: Mapping[str, object]) -> None:
    """Raise UsageError for an option, by name and value, that would change nothing without a word."""
    own = {runtime for readers in READ_BY.values() for runtime in readers}
    for option, runtimes in READ_BY.items():
        asked = given.get(option) not in (None, False, ())
        if asked and target.runtime in own and target.runtime not in runtimes:
            raise UsageError(
                f"{target.name} does not read it",
                where=f"--{option.replace('_', '-')}",
                mend="Leave it out",
            )
    if given.get("observer") and (scheme.calibration == "none" or target.verify == "language"):
        raise UsageError(
            f"{scheme.name} measures no activation ranges", where="--observer", mend="Leave it out"
        )
    if given.get("imatrix") and scheme.calibration == "none":
        raise UsageError(
            f"an importance matrix has no effect on {scheme.name}", where="--imatrix", mend="Leave it out"
        )


def refuse_wrong(target: Target, scheme: QuantScheme, given: Mapping[str, object]) -> None:
    """Raise what the runtime itself will say of an option's value, before the model is opened.

    A runtime that has options of its own reads them in its `options.py`, which imports the standard library only,
    by `read(options, quant)`.
    """
    package = Path(__file__).parent / "runtimes" / target.runtime
    if target.runtime.isidentifier() and (package / "options.py").is_file():
        module = importlib.import_module(f".runtimes.{target.runtime}.options", __package__)
        module.read(given, scheme.name)


def make_plan(target: Target, scheme: QuantScheme, *, calibrated: bool) -> Plan:
    """The plan of one conversion; raises Unsupported where this version has no exporter for the target."""
    module = registry.runtime_module(target.runtime)
    steps = [f"{module}:{name}" for name in target.steps]
    if target.verify == "language":
        stages = _language_stages(target, scheme, calibrated)
        prepare, (reference, compare) = WINDOWS, LOOKING["language"]
        workers = _workers([prepare], steps)
        verifiers: tuple[tuple[str, ...], ...] = ((reference,), (compare, VERSIONS))
    else:
        stages = _array_stages(target, scheme, calibrated)
        prepare, (reference, compare) = PREPARE, LOOKING["arrays"]
        workers = _workers([prepare, reference], steps)
        verifiers = ((compare,),)
    return Plan(stages, module, workers, steps[-1], prepare, reference, verifiers, compare)


def _workers(before: list[str], steps: list[str]) -> tuple[tuple[str, ...], ...]:
    """One worker for each step of the runtime; the first prepares as well, the last tells its versions."""
    workers = [[step] for step in steps]
    workers[0] = [REQUIREMENTS, *before, *workers[0]]
    workers[-1] = [*workers[-1], VERSIONS]
    return tuple(tuple(worker) for worker in workers)


def _array_stages(target: Target, scheme: QuantScheme, calibrated: bool) -> tuple[Stage, ...]:
    data = "the user's samples" if calibrated else "seeded random inputs, since no data was given"
    return (
        Stage("prepare samples", f"{data}; held-out ones are kept for verification"),
        Stage("run the source", "reference outputs, before the exporter touches anything"),
        Stage(f"export to {target.format}", f"{scheme.title} by runtime {target.runtime!r}"),
        Stage("audit and verify", "the written file is opened again, counted, run and compared"),
        Stage("publish", "one atomic rename, with manifest.json and report.html"),
    )


def _language_stages(target: Target, scheme: QuantScheme, calibrated: bool) -> tuple[Stage, ...]:
    data = "the user's text" if calibrated else "Python's own documentation, since no text was given"
    header = Stage(
        "write the header", "tokenizer and metadata; both tokenizers must agree before a weight is read"
    )
    return (
        Stage("cut text into windows", f"{data}; held-out ones are kept for verification"),
        *((header,) if "header" in target.steps else ()),
        Stage(f"export to {target.format}", f"{scheme.title} by runtime {target.runtime!r}"),
        Stage("run the source", "log-probabilities of the held-out text, where the model fits in memory"),
        Stage("audit and verify", "the written file is opened again, counted, run and compared"),
        Stage("publish", "one atomic rename, with manifest.json and report.html"),
    )
