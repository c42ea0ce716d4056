"""The story of one conversion: open, inspect, choose, check, calibrate and export, verify, publish."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import jobs, sources
from .calibration import model_files
from .exporters import foresee, plan, staging
from .reports import arena, manifest, record
from .request import Request
from .sources.source import Source
from .targets import engines, feasibility, figures, host, memory, registry, serving
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
    """The same judged for this host on `threads`: what the measured figures stand beside."""
    conversion_bytes: int
    """Memory that converting is expected to take here (an estimate)."""
    sequence: int
    """Tokens per sample, for a token model whose length is free."""
    threads: int = 1
    """Threads that this host is judged and measured with."""
    schemes: Mapping[str, feasibility.Verdict] = field(default_factory=dict)
    """A language model in every scheme of the target, on the device; empty for graphs."""
    devices: Mapping[str, feasibility.Verdict] = field(default_factory=dict)
    """A language model in the scheme, on every device of the target's classes; empty for graphs."""
    serving: Mapping[str, serving.Serving] = field(default_factory=dict)
    """How the device and each of the target's classes serve a language model; empty where nothing is served."""


@dataclass(frozen=True)
class Conversion:
    """What was published: the folder, its manifest, and the check that went before."""

    out: Path
    manifest: Mapping[str, Any]
    check: Check


def check(request: Request) -> Check:
    """Steps 1 to 4: open, inspect, choose and judge, from headers alone; imports no framework."""
    target = registry.find_target(request.target)
    language = target.verify == "language"
    scheme = _with_kv(target.scheme(request.quant or target.default_quant), request.kv_type)
    _require_read(request, target, scheme)
    source = sources.open_source(request.model)
    target.require_source(source.kind)
    threads = request.threads or (host.cpu_count() if language else 1)
    here = host.this_host(threads)
    device = registry.find_device(request.device, target)
    device = here if device.name == here.name else device
    sequence = request.sequence or default_sequence(source)
    facts = sources.inspect(source, sequence=sequence, signature=request.signature)
    plan.refuse_scheme(facts, scheme, target)
    plan.refuse_operators(facts, target)
    calibrated = request.calibration is not None or request.imatrix is not None
    counted, why = foresee.sizes(source, target, calibrated=calibrated) if target.sizes else ({}, "")

    def judge(where: Device, how: QuantScheme = scheme, *, alone: bool = True) -> feasibility.Verdict:
        verdict = feasibility.judge(
            facts,
            target,
            where,
            how,
            batch=request.batch,
            context=request.context,
            sequence=request.sequence,
            sizes=counted,
            units=engines.UNITS[request.compute_units] if request.compute_units else (),
            tensor_parallel=1 if where is here else request.tensor_parallel or 1,
            alternatives=not alone,
        )
        return dataclasses.replace(verdict, basis=(*verdict.basis, why)) if why else verdict

    needed = round(memory.conversion_bytes(memory.count_weights(facts), target.overhead))
    return Check(
        source,
        facts,
        target,
        device,
        scheme,
        judge(device, alone=False),
        judge(here),
        needed,
        sequence,
        threads,
        schemes={
            name: judge(device, _with_kv(each, request.kv_type))
            for name, each in target.schemes.items()
            if language
        },
        devices={
            where.name: judge(here if where.name == here.name else where)
            for where in registry.devices_for(target)
            if language
        },
        serving=_serve(request, facts, target, scheme, device, counted),
    )


def _serve(
    request: Request,
    facts: ModelFacts,
    target: Target,
    scheme: QuantScheme,
    device: Device,
    sizes: Mapping[str, feasibility.Size],
) -> dict[str, serving.Serving]:
    """The serving plan of the chosen device, then of every other one that the target runs on."""
    if target.server is None or facts.llm is None:
        return {}
    others = {each.name: each for each in registry.devices_for(target) if each.name != device.name}
    return {
        each.name: serving.plan(
            facts,
            target,
            each,
            scheme,
            batch=request.batch,
            context=request.context,
            sequence=request.sequence,
            tensor_parallel=request.tensor_parallel or 1,
            sizes=sizes,
        )
        for each in (device, *others.values())
    }


def _with_kv(scheme: QuantScheme, kv_type: str | None) -> QuantScheme:
    """The scheme with the KV cache's dtype that the user asked for."""
    if kv_type is None:
        return scheme
    return dataclasses.replace(scheme, kv={"f16": "float16"}.get(kv_type, kv_type))


def default_sequence(source: Source) -> int:
    """`SEQUENCE` tokens, or as many as the model takes by its own config where those are fewer."""
    longest = model_files.longest_sequence(source.path) if source.path.is_dir() else None
    return SEQUENCE if longest is None else min(SEQUENCE, longest)


def convert(request: Request, on_progress: OnProgress | None = None) -> Conversion:
    """Steps 1 to 8; publishes the output folder or raises one of `targets.errors` and leaves nothing."""
    checked = check(request)
    request, checked, said = _narrowed(request, checked)
    chosen = plan.make_plan(checked.target, checked.scheme, calibrated=request.calibration is not None)
    if not request.force:
        _require_fit(request, checked)
    _require_data(request, checked.scheme)
    allowed = budget.parse(request.budget, checked.scheme.min_cosine)
    out = request.out or Path(f"{checked.source.name}-{checked.target.name}-{checked.scheme.name}")
    with staging.Staging(out, overwrite=request.overwrite, need_bytes=2 * checked.source.nbytes) as stage:
        job = jobs.build(request, checked, chosen, stage)
        made = jobs.run(job, chosen.workers, request, on_progress)
        looked = jobs.run(jobs.verifying(job, made[chosen.export]), chosen.verifiers, request, on_progress)
        written = record.build(request, checked, chosen, job, made, looked)
        written["notes"] = [*said, *written["notes"]]
        _hold(request, checked, written, allowed)
        record.publish_into(stage.content, job, written, keep_samples=request.keep_samples)
        stage.publish()
    return Conversion(out, manifest.read(out), checked)


def _require_read(request: Request, target: Target, scheme: QuantScheme) -> None:
    """Refuse an option that this target or scheme would ignore, or not understand, before the model is opened."""
    given = {option: getattr(request, option) for option in (*plan.READ_BY, "observer")}
    plan.refuse_unread(target, scheme, given)
    plan.refuse_wrong(target, scheme, given)
    if request.observer is not None:
        from .calibration import observers

        observers.make(request.observer)  # a wrong name is said now, not after the source has run


def _narrowed(request: Request, checked: Check) -> tuple[Request, Check, tuple[str, ...]]:
    """With --fit, the first scheme of the target that fits where the one that was asked for does not."""
    if request.fit and checked.verdict.verdict == "does not fit":
        for other in checked.verdict.alternatives:
            if other.device == checked.device.name and other.quant != checked.scheme.name:
                said = (
                    f"{checked.scheme.name} does not fit {checked.device.name}: {other.quant} taken by --fit"
                )
                narrower = dataclasses.replace(request, quant=other.quant)
                return narrower, check(narrower), (said,)
    return request, checked, ()


def _require_fit(request: Request, checked: Check) -> None:
    """Stop where the artifact does not fit its device, or the conversion does not fit this machine.

    With --fit, what another order of operators or pruning may make up for is judged after the conversion, to the byte.
    """
    wanting = checked.verdict.verdict == "does not fit" and not (request.fit and checked.verdict.climbable)
    reason, advice = (checked.verdict.reason, checked.verdict.advice) if wanting else ("", ())
    bounds = [bound for bound in (request.memory_limit, host.available_bytes()) if bound is not None]
    if bounds and checked.conversion_bytes > min(bounds):
        reason = reason or (
            f"converting takes about {figures.size(checked.conversion_bytes)} of memory here, "
            f"and {figures.size(min(bounds))} can be had"
        )
    if reason:
        refusal = DoesNotFit(reason, mend=". ".join([*advice, "--force converts all the same"]))
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


def _require_room(request: Request, checked: Check, found: Mapping[str, Any] | None) -> None:
    """Stop where the file that was written, counted to the byte, does not fit its device after all."""
    lacking = arena.missed(found, checked.device)
    if lacking and found is not None and not request.force:
        advice = [*arena.rungs(found), *(() if request.fit else ("--fit tries other orders of operators",))]
        told = " ".join(f"({number}) {one}." for number, one in enumerate(advice, 1))
        raise DoesNotFit("; ".join(lacking), mend=f"What would help: {told} --force publishes all the same")


def _hold(request: Request, checked: Check, written: Mapping[str, Any], allowed: budget.Budget) -> None:
    """Refuse what is not what was asked for, and what lost more than the budget allows."""
    if written["audit"] and written["audit"]["refused"]:
        raise Unsupported("; ".join(written["audit"]["warnings"]), where=f"--quant {checked.scheme.name}")
    _require_room(request, checked, written["arena"])
    missed = allowed.missed(written["fidelity"]) if written["fidelity"] else ()
    if request.budget and written["not_checked"]:
        missed = (f"the budget cannot be held against anything, not checked: {written['not_checked']}",)
    if missed and not request.keep:
        raise FidelityBelowBudget(
            "; ".join(missed), mend="Nothing was published; --keep publishes it all the same"
        )
