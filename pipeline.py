"""The story of one conversion: open, inspect, choose, check, calibrate and export, verify, publish."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import sources
from .calibration import model_files
from .exporters import isolate, plan, staging
from .exporters.job import Job, Outcome
from .reports import manifest, record
from .request import Request
from .sources.source import Source
from .targets import feasibility, figures, host, memory, registry
from .targets.card import QuantScheme, Target
from .targets.device import Device
from .targets.errors import DoesNotFit, FidelityBelowBudget, Unsupported, UsageError
from .targets.facts import ModelFacts
from .verification import budget

OnProgress = Callable[[str, int, int], None]
SEQUENCE = 128
"""Tokens per sample that are assumed where the user says nothing and the model takes as many."""


@dataclass(frozen=True)
class Check:
    """What is known before any conversion: the model, the choice, the plan and the verdict."""

    source: Source
    facts: ModelFacts
    target: Target
    device: Device
    scheme: QuantScheme
    verdict: feasibility.Verdict
    host_verdict: feasibility.Verdict
    """The same judged for this host on one thread: what the measured figures stand beside."""
    conversion_bytes: int
    """Memory that converting is expected to take here (an estimate)."""
    sequence: int
    """Tokens per sample, for a token model whose length is free."""


@dataclass(frozen=True)
class Conversion:
    """What was published: the folder, its manifest, and the check that went before."""

    out: Path
    manifest: Mapping[str, Any]
    check: Check


def check(request: Request) -> Check:
    """Steps 1 to 4: open, inspect, choose and judge, from headers alone; imports no framework."""
    target = registry.find_target(request.target)
    scheme = target.scheme(request.quant or target.default_quant)
    device = registry.find_device(request.device, target)
    source = sources.open_source(request.model)
    target.require_source(source.kind)
    sequence = request.sequence or default_sequence(source)
    facts = sources.inspect(source, sequence=sequence, signature=request.signature)
    plan.refuse_scheme(facts, scheme, target)

    def judge(where: Device) -> feasibility.Verdict:
        return feasibility.judge(
            facts,
            target,
            where,
            scheme,
            batch=request.batch,
            context=request.context,
            sequence=request.sequence,
        )

    needed = round(memory.conversion_bytes(memory.count_weights(facts), target.overhead))
    here = host.this_host(request.threads)
    return Check(source, facts, target, device, scheme, judge(device), judge(here), needed, sequence)


def default_sequence(source: Source) -> int:
    """`SEQUENCE` tokens, or as many as the model takes by its own config where those are fewer."""
    longest = model_files.longest_sequence(source.path) if source.path.is_dir() else None
    return SEQUENCE if longest is None else min(SEQUENCE, longest)


def convert(request: Request, on_progress: OnProgress | None = None) -> Conversion:
    """Steps 1 to 8; publishes the output folder or raises one of `targets.errors` and leaves nothing."""
    checked = check(request)
    chosen = plan.make_plan(checked.target, checked.scheme, calibrated=request.calibration is not None)
    _require_read(request, checked)
    if not request.force:
        _require_fit(checked, request.memory_limit)
    _require_data(request, checked.scheme)
    allowed = budget.parse(request.budget, checked.scheme.min_cosine)
    out = request.out or Path(f"{checked.source.name}-{checked.target.name}-{checked.scheme.name}")
    with staging.Staging(out, overwrite=request.overwrite, need_bytes=2 * checked.source.nbytes) as stage:
        job = _job(request, checked, chosen, stage)
        made = isolate.run(
            job, on_progress=on_progress, memory_limit=request.memory_limit, timeout=request.timeout
        )
        exported = made[chosen.export]
        compared = verify_artifact(request, job, exported, checked.target, on_progress)
        written = record.build(request, checked, job, made, exported, compared)
        _hold(request, checked, written, allowed)
        record.publish_into(stage.content, job, written, keep_samples=request.keep_samples)
        stage.publish()
    return Conversion(out, manifest.read(out), checked)


def verify_artifact(
    request: Request, job: Job, exported: Outcome, target: Target, on_progress: OnProgress | None
) -> Outcome:
    """Step 7: run and count the artifact in a process of its own, which loads only its runtime."""
    options = {
        **job.options,
        "artifact": str(Path(job.staging) / exported.files[0]),
        "format": target.format,
        "input_ports": [dataclasses.asdict(port) for port in exported.inputs],
        "output_ports": [dataclasses.asdict(port) for port in exported.outputs],
    }
    comparing = dataclasses.replace(job, steps=(plan.COMPARE,), options=options)
    done = isolate.run(
        comparing, on_progress=on_progress, memory_limit=request.memory_limit, timeout=request.timeout
    )
    return done[plan.COMPARE]


def _job(request: Request, checked: Check, chosen: plan.Plan, stage: staging.Staging) -> Job:
    work = stage.work
    sequence_free = any(
        io.shape and len(io.shape) > 1 and isinstance(io.shape[1], str) for io in checked.facts.inputs
    )
    return Job(
        steps=chosen.steps,
        source_kind=checked.source.kind,
        source_path=str(checked.source.path),
        target=checked.target.name,
        runtime=checked.target.runtime,
        quant=checked.scheme.name,
        staging=str(stage.content),
        work=str(work),
        samples=str(work / "samples"),
        options={
            "artifact_name": checked.target.artifact,
            "calibration": request.calibration or "random",
            "calibrated": request.calibration is not None,
            "held_out": request.held_out,
            "inputs": [dataclasses.asdict(io) for io in checked.facts.inputs],
            "layout": request.layout,
            "observer": request.observer,
            "opset": request.opset,
            "reference": str(work / "reference.npz"),
            "samples": request.samples,
            "seed": request.seed,
            "sequence": request.sequence
            or (checked.facts.assumed.get("sequence", checked.sequence) if sequence_free else None),
            "sequence_asked": request.sequence is not None,
            "signature": request.signature,
            "source_free_sequence": sequence_free,
            "threads": request.threads,
            "runtime_module": chosen.runtime_module,
            "extra": checked.target.extra,
            "folder": str(Path.cwd()),
            "user_path": str(Path.cwd()) if _names_function(request.calibration) else None,
        },
    )


def _require_read(request: Request, checked: Check) -> None:
    given = {"layout": request.layout, "observer": request.observer, "opset": request.opset}
    plan.refuse_unread(checked.target, checked.scheme, given)
    if request.observer is not None:
        from .calibration import observers

        observers.make(request.observer)  # a wrong name is said now, not after the source has run


def _require_fit(checked: Check, memory_limit: int | None) -> None:
    """Stop where the artifact does not fit its device, or the conversion does not fit this machine."""
    reason = checked.verdict.reason if checked.verdict.verdict == "does not fit" else ""
    bounds = [bound for bound in (memory_limit, host.available_bytes()) if bound is not None]
    if bounds and checked.conversion_bytes > min(bounds):
        reason = reason or (
            f"converting takes about {figures.size(checked.conversion_bytes)} of memory here, "
            f"and {figures.size(min(bounds))} can be had"
        )
    if reason:
        refusal = DoesNotFit(reason, mend="--force converts all the same")
        refusal.check = checked
        raise refusal


def _require_data(request: Request, scheme: QuantScheme) -> None:
    if scheme.calibration == "required" and request.calibration is None:
        raise UsageError(
            f"{scheme.name} measures activation ranges on your data, and none was given",
            where="--calibration",
            mend="Give --calibration DATA (.npz, .npy, a folder of images, .jsonl, .txt or module:function); "
            "--calibration random makes an artifact to try the tool with, marked as such",
        )


def _hold(request: Request, checked: Check, written: Mapping[str, Any], allowed: budget.Budget) -> None:
    """Refuse what is not what was asked for, and what lost more than the budget allows."""
    if written["audit"] and written["audit"]["refused"]:
        raise Unsupported("; ".join(written["audit"]["warnings"]), where=f"--quant {checked.scheme.name}")
    missed = allowed.missed(written["fidelity"]["outputs"]) if written["fidelity"] else ()
    if missed and not request.keep:
        raise FidelityBelowBudget(
            "; ".join(missed), mend="Nothing was published; --keep publishes it all the same"
        )


def _names_function(calibration: str | None) -> bool:
    """Whether the data comes from a `module:function` of the user's, so that the worker must find it."""
    return calibration is not None and ":" in calibration and not Path(calibration).exists()
