"""The last rung: prune as few channels as it takes, and keep the result only where its loss is small."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ....calibration.samples import SampleSet
from ....targets.figures import size
from ...job import Job, Progress
from ...litert.convert import FloatModel
from ...ports import to_artifact
from . import ladder, lean, prune, quantize
from .ladder import Climb, Rung

SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Shares of each layer's channels that are tried, the smallest first."""
FLOOR = 0.95
"""Cosine to the float model below which a pruned one is only suggested, where the scheme names no floor."""


def pruned(source: FloatModel, job: Job, progress: Progress, before: Climb) -> Climb:
    """The climb with channels pruned until the arena fits, or `before` with the rung as a suggestion.

    Each share is quantized and planned anew, so that its arena is exact; the loss is that of the float models on the
    calibration samples. Nothing is trained.
    """
    limit = int(job.options["ram_bytes"])
    samples = SampleSet.open(Path(str(job.samples)) / "calibration")

    def feeds() -> Iterable[dict[str, Any]]:
        return (to_artifact(feed, source.inputs) for feed in samples.feeds())

    for number, share in enumerate(SHARES):
        progress("prune channels", number, len(SHARES))
        made = prune.prune(source.model, share)
        if made is None:
            break
        model, gone, total = made
        quantized, _ = quantize.quantize(dataclasses.replace(source, model=model), job, _silent)
        lean.strip(quantized)
        after = ladder.climb(quantized, {**job.options, "ram_bytes": None})
        if after.plan.needed > limit:
            continue
        lost = prune.loss(source.model, model, feeds)
        progress("prune channels", len(SHARES), len(SHARES))
        good = lost.cosine >= float(job.options.get("min_cosine") or FLOOR)
        rung = Rung(
            f"{gone} of {total} channels pruned, those with the smallest weights",
            good,
            after.plan.needed,
            before.plan.needed - after.plan.needed,
            f"{lost}" + ("" if good else ": too much, train it after pruning"),
        )
        return (
            dataclasses.replace(after, rungs=(*_applied(before), rung))
            if good
            else dataclasses.replace(before, rungs=(*before.rungs, rung))
        )
    progress("prune channels", len(SHARES), len(SHARES))
    none = Rung(
        f"no pruning brings the arena down to {size(limit)}", False, None, 0, "nothing, since it was not done"
    )
    return dataclasses.replace(before, rungs=(*before.rungs, none))


def _applied(climbed: Climb) -> tuple[Rung, ...]:
    """The rungs that stay true once the model fits: what was only suggested is not needed any more."""
    return tuple(rung for rung in climbed.rungs if rung.applied or not rung.saves_bytes)


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody sees: the rung has its own."""
