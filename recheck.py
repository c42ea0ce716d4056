"""What is done with a folder that was published before: verify it again, or finish a bundle."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import sources
from .exporters import isolate, plan, staging
from .exporters.job import Job
from .reports import manifest, record
from .targets import registry
from .targets.errors import FidelityBelowBudget, SourceUnreadable, Unsupported, UsageError
from .verification import budget as budgets

OnProgress = Callable[[str, int, int], None]


def verify(
    folder: Path,
    *,
    source: Path | None = None,
    budget: str | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Check every hash, then run the artifact again on the kept samples; gives the manifest, measured anew.

    A bundle that awaits another machine is verified as far as it can be here; its `state` says what it awaits.

    With `source`, the reference outputs are computed again too, and the source must be the one converted.
    Raises SourceUnreadable for a damaged folder, UsageError for one without samples, Unsupported where the
    artifact cannot be run here, and FidelityBelowBudget where the outputs are too far from the source's.
    """
    found = manifest.read(folder)
    problems = manifest.check_hashes(folder, found)
    if problems:
        raise SourceUnreadable(
            "; ".join(problems), where=str(folder), mend="Convert again, or restore the files"
        )
    kept = folder / record.KEPT
    if not (kept / "reference.npz").is_file():
        raise UsageError(
            "no samples were kept in this folder", where=str(folder), mend="Convert without --no-samples"
        )
    asked = found["scheme"]
    allowed = budgets.parse(budget, asked["min_cosine"])
    with tempfile.TemporaryDirectory(prefix="modelport-verify-") as scratch:
        job = _job(folder.resolve(), Path(scratch), found, source)
        done = isolate.run(job, on_progress=on_progress)
    compared = done[_looking(found)[1]].data
    if compared.get("not_checked"):
        raise Unsupported(
            f"the files have their hashes, and what they compute was not checked: {compared['not_checked']}",
            where=str(folder),
        )
    record.measure_anew(found, compared)
    _hold(folder, found, allowed)
    return found


def _hold(folder: Path, found: dict[str, Any], allowed: budgets.Budget) -> None:
    """Refuse an artifact that breaks a rule of its runtime, or lost more than is allowed."""
    if found["audit"] and found["audit"].get("broken"):
        raise Unsupported("; ".join(found["audit"]["broken"]), where=str(folder / found["artifact"]))
    missed = allowed.missed(found["fidelity"]) if found["fidelity"] else ()
    if missed:
        raise FidelityBelowBudget("; ".join(missed), where=str(folder))


def _job(folder: Path, scratch: Path, found: dict[str, Any], source: Path | None) -> Job:
    kept, reference = folder / record.KEPT, folder / record.KEPT / "reference.npz"
    run_source, compare = _looking(found)
    steps: tuple[str, ...] = (compare,)
    kind, path = found["source"]["kind"], found["source"]["path"]
    if source is not None:
        opened = sources.open_source(source)
        if opened.sha256() != found["source"]["sha256"]:
            raise UsageError("is not the source that was converted", where=str(source))
        kind, path = opened.kind, str(opened.path)
        steps, reference = (run_source, compare), scratch / "reference.npz"
    return Job(
        steps=steps,
        source_kind=kind,
        source_path=path,
        target=found["target"],
        runtime=found["runtime"],
        quant=found["quant"],
        staging=str(folder),
        work=str(scratch),
        samples=str(kept),
        options={
            **found["options"],
            "artifact": str(folder / found["artifact"]),
            "format": found["format"],
            "input_ports": found["io"]["inputs"],
            "output_ports": found["io"]["outputs"],
            "source_free_sequence": found["io"]["source_free_sequence"],
            "reference": str(reference),
        },
    )


def _looking(found: dict[str, Any]) -> tuple[str, str]:
    """The steps that run the source and the artifact of a published folder."""
    return plan.LOOKING[found.get("verify", "arrays")]


def finish(bundle: Path, *, rebuild: bool = False, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Complete a bundle whose state is "awaiting ..." with its runtime's `finish(job, progress)` step.

    The step finds the bundle's files in `job.staging`, a copy that replaces the bundle by one rename when all
    went well; with `rebuild`, also for a folder that is done. What the step made is run on the kept samples, and
    held to the scheme's own floor. Returns the manifest. Raises Unsupported where the runtime has no such step,
    FidelityBelowBudget, and whatever that step raises (as on a machine without the GPU that the bundle waits for).
    """
    found = manifest.read(bundle)
    if found["state"] == "done" and not rebuild:
        return found
    problems = manifest.check_hashes(bundle, found)
    if problems:
        raise SourceUnreadable("; ".join(problems), where=str(bundle), mend="Copy the bundle here once more")
    step = f"{registry.runtime_module(found['runtime'])}:finish"
    with staging.Staging(
        bundle, overwrite=True, need_bytes=2 * sum(f["bytes"] for f in found["files"])
    ) as stage:
        shutil.copytree(bundle, stage.content, dirs_exist_ok=True)
        job = _job(stage.content, stage.work, found, None)
        job = dataclasses.replace(job, steps=(step,), options={**job.options, "folder": str(Path.cwd())})
        outcome = isolate.run(job, on_progress=on_progress)[step]
        record.complete(found, outcome)
        if (stage.content / record.KEPT / "reference.npz").is_file():
            compare = _looking(found)[1]
            looking = dataclasses.replace(
                job,
                steps=(compare,),
                options={**job.options, "artifact": str(stage.content / found["artifact"])},
            )
            record.measure_anew(found, isolate.run(looking, on_progress=on_progress)[compare].data)
            _hold(bundle, found, budgets.parse(None, found["scheme"]["min_cosine"]))
        record.publish_again(stage.content, found)
        stage.publish()
    return manifest.read(bundle)
