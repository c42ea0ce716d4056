"""The loss that a conversion may have: `cosine=0.99,sqnr=20,top1=0.5,kl=0.05,ppl=2` against what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..targets.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """Bounds; None is no bound. `cosine` is the lowest mean cosine, `sqnr_db` the lowest SQNR in dB,
    `top1_points` how many points (hundredths) of top-1 agreement with the source may be lost."""

    cosine: float | None = None
    sqnr_db: float | None = None
    top1_points: float | None = None
    kl: float | None = None
    """Most nats a token of mean KL divergence to the model before it was quantized; language models."""
    ppl_percent: float | None = None
    """Most that the perplexity may rise, in percent; language models."""

    def missed(self, fidelity: Mapping[str, Any]) -> tuple[str, ...]:
        """One sentence per bound that an output misses; an exact output misses none."""
        sentences: list[str] = list(self._missed_in_language(fidelity))
        for name, figures in fidelity["outputs"].items():
            if figures["non_finite"]:
                sentences.append(f"output {name!r} holds {figures['non_finite']} NaN or infinite values")
            if self.cosine is not None and figures["cosine"] < self.cosine:
                sentences.append(f"output {name!r} has cosine {figures['cosine']:.4f}, below {self.cosine:g}")
            if self.sqnr_db is not None and not figures["exact"]:
                sqnr = figures["sqnr_db"]
                if sqnr is None or sqnr < self.sqnr_db:
                    shown = "no finite SQNR" if sqnr is None else f"SQNR {sqnr:.1f} dB"
                    sentences.append(f"output {name!r} has {shown}, below {self.sqnr_db:g} dB")
            if self.top1_points is not None and figures["top1_agreement"] is not None:
                lost = 100 * (1 - figures["top1_agreement"])
                if lost > self.top1_points:
                    sentences.append(
                        f"output {name!r} names another class in {lost:.2f} % of the samples, over {self.top1_points:g}"
                    )
        return tuple(sentences)

    def _missed_in_language(self, fidelity: Mapping[str, Any]) -> Iterator[str]:
        """Sentences on perplexity and divergence; a bound on what could not be measured is missed."""
        divergence, perplexity = fidelity.get("kl"), fidelity.get("perplexity") or {}
        if self.kl is not None:
            if divergence is None:
                yield "the KL divergence could not be measured: there was no reference"
            elif divergence["mean"] > self.kl:
                yield f"the KL divergence is {divergence['mean']:.4g} nats a token, over {self.kl:g}"
        if self.ppl_percent is not None:
            rise = rise_percent(perplexity)
            if rise is None:
                yield "the rise of perplexity could not be measured: there was no reference"
            elif rise > self.ppl_percent:
                yield f"the perplexity rises by {rise:.2f} %, over {self.ppl_percent:g}"
        before = (fidelity.get("source") or {}).get("reference")
        if before and before["cosine"] < SOURCE_COSINE:
            yield (
                f"before quantizing, the converted model has cosine {before['cosine']:.4f} to the source, below"
                f" {SOURCE_COSINE:g}: the conversion itself is wrong"
            )


def rise_percent(perplexity: Mapping[str, Any]) -> float | None:
    """By how many percent the artifact's perplexity lies above its reference's; None where one is not known."""
    after, before = perplexity.get("artifact"), perplexity.get("reference")
    if not after or not before or after["value"] is None or not before["value"]:
        return None
    return 100 * (float(after["value"]) / float(before["value"]) - 1)


SOURCE_COSINE = 0.99
"""Least cosine between the source in its own framework and the converted model in 16 bits."""

FIELDS = {"cosine": "cosine", "sqnr": "sqnr_db", "top1": "top1_points", "kl": "kl", "ppl": "ppl_percent"}


def parse(text: str | None, floor: float | None) -> Budget:
    """The budget that the user wrote, or the scheme's own floor on the cosine where none was written.

    Raises UsageError for a name or value that is not known.
    """
    if not text:
        return Budget(cosine=floor)
    bounds: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if name.strip() not in FIELDS or not equals:
            known = ", ".join(f"{field}=NUMBER" for field in FIELDS)
            raise UsageError(f"{part.strip()!r} is no bound", where="--budget", mend=f"Known: {known}")
        number = value.strip().removesuffix("%") if name.strip() == "ppl" else value.strip()
        bounds[FIELDS[name.strip()]] = _number(name.strip(), number)
    return Budget(**bounds)


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (name == "cosine" and value > 1):
        known = "a number of at most 1" if name == "cosine" else "a finite number"
        raise UsageError(f"{text!r} is not {known}", where=f"--budget {name}")
    return value
