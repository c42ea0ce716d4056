"""The values of the feasibility check: the case that is judged, and the verdict with its terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .card import QuantScheme, Target
from .device import Device
from .facts import ModelFacts
from .memory import WeightCounts

Answer = Literal["fits", "does not fit", "unknown"]


@dataclass(frozen=True)
class Size:
    """A file that does not exist yet, counted to the byte by its exporter."""

    file_bytes: int
    tensor_bytes: int
    """What of it are weights."""


@dataclass(frozen=True)
class Case:
    """One question: does this model, stored like this, run on this device under these conditions?"""

    facts: ModelFacts
    counts: WeightCounts
    target: Target
    device: Device
    scheme: QuantScheme
    batch: int = 1
    context: int = 0
    """Tokens that the KV cache holds, prompt and answer together; 0 for a graph."""
    prompt: int = 0
    """Tokens of the prompt; 0 for a graph."""
    generated: int = 0
    """Tokens of the answer; 0 for a graph."""
    asked_prompt: int | None = None
    """The length of the prompt that the user gave; None when `prompt` is the default for the context."""
    units: tuple[str, ...] = ()
    """The engines that may be used, of a device that has several; empty: all."""
    gpus: int = 1
    """Devices that the model is split over by tensor parallelism."""
    held: WeightCounts | None = None
    """The weights that each of them holds; None: all, on one device."""
    sizes: Mapping[str, Size] = field(default_factory=dict)
    """What the exporter counted beforehand, by scheme; empty where it cannot or was not asked."""

    @property
    def each(self) -> WeightCounts:
        """The weights that one device holds."""
        return self.held or self.counts

    @property
    def size(self) -> Size | None:
        """The counted size of this case's scheme."""
        return self.sizes.get(self.scheme.name)


@dataclass(frozen=True)
class Term:
    """One figure of the verdict with the formula that gave it, numbers filled in."""

    name: str
    value: float | None
    """None when it cannot be known; `formula` then says what is missing."""
    unit: str
    """"B", "ms", "tok/s" or "FLOP"; bytes of memory are those of one device."""
    formula: str
    estimate: bool = False
    """True when an input of the formula is an estimate rather than published or counted."""


@dataclass(frozen=True)
class Predicted:
    """The figures that the manifest puts beside the measured ones; None where they cannot be known."""

    latency_ms: float | None = None
    """One inference of a graph by the roofline per operator."""
    peak_memory_bytes: int | None = None
    file_bytes: int | None = None
    latency_upper_ms: float | None = None
    """One inference by T_compute + T_memory + T_communication."""
    prefill_ms: float | None = None
    decode_ms: float | None = None
    """One generated token of every sequence of the batch."""
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Alternative:
    """A change to the request after which it fits."""

    change: str
    """What to write instead, as in "--quant int8" or "--device a100-80gb"."""
    quant: str
    device: str
    batch: int
    context: int | None
    """None for a graph."""
    memory_bytes: int | None
    file_bytes: int | None
    latency_ms: float | None
    """One inference, or one generated token of a language model."""
    tensor_parallel: int = 1
    """Devices that the model is split over."""


@dataclass(frozen=True)
class Verdict:
    """The answer, why, and what would fit instead."""

    verdict: Answer
    terms: tuple[Term, ...]
    predicted: Predicted
    reasons: tuple[str, ...] = ()
    """Why it does not fit, or what cannot be known; empty when it fits."""
    alternatives: tuple[Alternative, ...] = field(default=())
    """What would fit; only for a verdict of "does not fit"."""
    advice: tuple[str, ...] = ()
    """What to change in the model itself so that it fits; only for a verdict of "does not fit"."""
    climbable: bool = False
    """Whether nothing but the memory is too small, by so little that `--fit` may make up for it."""
    basis: tuple[str, ...] = ()
    """What the figures rest on: assumptions, estimates, sizes taken for free dimensions."""

    @property
    def counted(self) -> bool:
        """Whether the file's size was counted to the byte rather than estimated."""
        return any(term.name == "file" and not term.estimate for term in self.terms)

    @property
    def reason(self) -> str:
        """All reasons in one line; "" when it fits."""
        return "; ".join(self.reasons)
