"""From what the steps returned to the manifest's keys, and the files that stand beside the artifact."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..calibration.samples import SampleSet
from ..exporters import plan
from ..exporters.job import Job, Outcome
from ..verification.audit import Audit
from ..verification.audit.rule import shares
from . import arena, html, manifest, placement

if TYPE_CHECKING:
    from ..exporters.isolate import Finished
    from ..pipeline import Check
    from ..request import Request
    from ..targets.feasibility import Predicted

KEPT_BYTES = {"arrays": 16 << 20, "language": 64 << 20}
"""At most this much of the held-out samples is published beside the artifact, by how it is verified."""
SILENT = (plan.REQUIREMENTS, plan.VERSIONS, plan.PREPARE, plan.WINDOWS, plan.REFERENCE)
"""Steps of a conversion's workers that are not the exporter's."""
KEPT = "verification"
"""The folder of those samples in the output folder."""

REPEATED = (
    "gpu",
    "layout",
    "observer",
    "opset",
    "runner",
    "samples",
    "seed",
    "sequence",
    "signature",
    "threads",
    "kv_type",
)
"""The options of a job that `modelport verify` needs again."""


def build(
    request: Request, checked: Check, chosen: plan.Plan, job: Job, made: Finished, looked: Finished
) -> dict[str, Any]:
    """The manifest of one conversion, without its `files`; every value is JSON."""
    done = {**made, **looked}
    prepared, exported, compared = done[chosen.prepare], done[chosen.export], done[chosen.compare]
    versions = {**looked[plan.VERSIONS].data["versions"]} if plan.VERSIONS in looked else {}
    audited = audit_entry(compared.data["audit"], checked.scheme.weights, checked.scheme.compute)
    file_bytes = sum(stored_bytes(Path(job.staging) / file) for file in _artifact(exported))
    warnings = [*prepared.data["warnings"], *(audited["warnings"] if audited else ())]
    return {
        "schema": manifest.SCHEMA,
        "state": exported.data.get("state", "done"),
        "command": list(request.command),
        "modelport": __version__,
        "versions": {**versions, **made[plan.VERSIONS].data["versions"]},
        "source": {
            "kind": checked.source.kind,
            "path": str(request.model),
            "name": checked.source.name,
            "architecture": checked.facts.architecture,
            "parameters": checked.facts.parameters,
            "bytes": checked.source.nbytes,
            "weight_bytes": checked.facts.bytes_by_dtype,
            "sha256": checked.source.sha256(),
        },
        "target": checked.target.name,
        "device": checked.device.name,
        "quant": checked.scheme.name,
        "scheme": dataclasses.asdict(checked.scheme),
        "runtime": checked.target.runtime,
        "format": checked.target.format,
        "verify": checked.target.verify,
        "artifact": exported.files[0],
        "io": {
            "inputs": [dataclasses.asdict(port) for port in exported.inputs],
            "outputs": [dataclasses.asdict(port) for port in exported.outputs],
            "source_free_sequence": job.options["source_free_sequence"],
        },
        "options": {name: job.options[name] for name in REPEATED if name in job.options},
        "calibration": {**prepared.data, "given": request.calibration is not None},
        "files": [],
        "predicted": predicted_entry(checked.verdict.predicted),
        "predicted_this_host": predicted_entry(checked.host_verdict.predicted),
        "measured": {
            "threads": checked.threads,
            "latency_ms": compared.data["latency_ms"],
            "peak_memory_bytes": compared.data["peak_memory_bytes"],
            "speed": compared.data.get("speed"),
            "file_bytes": file_bytes,
            "source_latency_ms": done[chosen.reference].data.get("source_latency_ms"),
            "conversion_seconds": round(made.seconds, 3),
            "conversion_peak_bytes": made.peak_bytes,
        },
        "fidelity": compared.data["fidelity"],
        "not_checked": compared.data.get("not_checked"),
        "proof": compared.data.get("proof"),
        "without_importance": compared.data.get("without_importance"),
        "sample": compared.data.get("sample"),
        "run": exported.data.get("run"),
        "portability": exported.data.get("portability"),
        "audit": audited,
        "engine": placement.entry(checked.device, audited),
        "arena": arena.entry(checked.device, exported.data.get("arena"), file_bytes),
        "feasibility": {
            "verdict": checked.verdict.verdict,
            "conversion_bytes": checked.conversion_bytes or None,
            "terms": [dataclasses.asdict(term) for term in checked.verdict.terms],
            "serving": job.options.get("serving"),
        },
        "warnings": warnings,
        "notes": list(dict.fromkeys(note for step in _telling(chosen) for note in done[step].notes)),
    }


def _artifact(exported: Outcome) -> list[str]:
    """The files that the artifact consists of: those written, but the ones that only stand beside it."""
    return [file for file in exported.files if file not in exported.data.get("beside", ())]


def _telling(chosen: plan.Plan) -> list[str]:
    """The steps whose notes are shown: the exporter's own and the comparison; the samples' are warnings."""
    made = [step for worker in chosen.workers for step in worker if step not in SILENT]
    return [*made, chosen.compare]


def stored_bytes(path: Path) -> int:
    """Bytes of a file, or of every file in a folder: a .mlpackage is one."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def audit_entry(raw: Mapping[str, Any] | None, weights: str, compute: str) -> dict[str, Any] | None:
    """The manifest's `audit`: the count, the shares and the warnings; None where nothing could be counted."""
    if raw is None:
        return None
    counted = Audit(**raw)
    held = shares(counted, weights, compute)
    return {
        **dataclasses.asdict(counted),
        "int8_weight_share": counted.weight_share(("int8", "uint8", "q8_0")),
        "int8_mac_share": counted.mac_share(("int8", "uint8")),
        "asked": {
            "weights": weights,
            "compute": compute,
            "weight_share": held.weights,
            "mac_share": held.macs,
        },
        "warnings": list(held.warnings),
        "refused": held.refused,
    }


def predicted_entry(predicted: Predicted) -> dict[str, Any]:
    """The manifest's `predicted`: every figure of the verdict, null where it cannot be known."""
    return dataclasses.asdict(predicted)


def publish_into(folder: Path, job: Job, written: dict[str, Any], *, keep_samples: bool) -> None:
    """Put samples, report and manifest beside the artifact; adds `files` to the manifest."""
    if keep_samples:
        written["kept_samples"] = keep(job, folder / KEPT, KEPT_BYTES[written["verify"]])
    html.write(folder, written)
    written["files"] = manifest.file_entries(folder)
    manifest.write(folder, written)


def complete(written: dict[str, Any], outcome: Outcome) -> None:
    """Take up what a bundle's last step made: its files are the artifact now, and its figures are measured."""
    told = dict(outcome.data)
    written["state"] = "done"
    if outcome.files:
        written["artifact"] = outcome.files[0]
    written["portability"] = told.pop("portability", written.get("portability"))
    written["measured"] = {**written["measured"], **told}
    written["notes"] = [*written["notes"], *outcome.notes]


def measure_anew(written: dict[str, Any], compared: Mapping[str, Any]) -> None:
    """Take up what running and counting a published artifact gave."""
    scheme = written["scheme"]
    written["fidelity"], written["proof"] = compared["fidelity"], compared.get("proof")
    written["not_checked"] = compared.get("not_checked")
    written["audit"] = audit_entry(compared["audit"], scheme["weights"], scheme["compute"])
    written["measured"] = {
        **written["measured"],
        "latency_ms": compared["latency_ms"],
        "speed": compared.get("speed"),
    }


def publish_again(folder: Path, written: dict[str, Any]) -> None:
    """Rewrite report and manifest in `folder`."""
    html.write(folder, written)
    written["files"] = manifest.file_entries(folder)
    manifest.write(folder, written)


def keep(job: Job, folder: Path, most: int) -> int:
    """Copy held-out samples and reference outputs for `modelport verify`; returns how many were kept.

    As many as `most` bytes hold, and none where there is nothing to compare with.
    """
    held_out = SampleSet.open(Path(str(job.samples)) / "held_out")
    reference = Path(str(job.options["reference"]))
    if not reference.is_file():
        return 0
    total = sum(file.stat().st_size for file in held_out.folder.iterdir()) + reference.stat().st_size
    count = held_out.count if total <= most else max(1, held_out.count * most // total)
    folder.mkdir()
    if count == held_out.count:
        shutil.copytree(held_out.folder, folder / "held_out")
        shutil.copyfile(reference, folder / "reference.npz")
        return count
    held_out.copy_head(folder / "held_out", count)
    _copy_reference(reference, folder / "reference.npz", count)
    return count


def _copy_reference(source: Path, target: Path, count: int) -> None:
    import numpy as np

    with np.load(source, allow_pickle=False) as saved:
        kept = {key: saved[key] for key in saved.files if int(key.split("|")[0]) < count}
    np.savez(target, **kept)
