"""The loss that a conversion may have: `cosine=0.99,sqnr=20,top1=0.5` against what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
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

    def missed(self, outputs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        """One sentence per bound that an output misses; an exact output misses none."""
        sentences: list[str] = []
        for name, figures in outputs.items():
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


FIELDS = {"cosine": "cosine", "sqnr": "sqnr_db", "top1": "top1_points"}


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
        bounds[FIELDS[name.strip()]] = _number(name.strip(), value.strip())
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
