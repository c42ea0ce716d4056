"""The worker steps of verification: run the source, run the artifact, compare, and count the file.

`reference` runs in the worker that exports, before the exporter touches anything, on a model that was
loaded afresh. `compare` runs in a process of its own that loads nothing but the artifact's runtime, so its
peak memory is the artifact's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..calibration.samples import SampleSet
from ..exporters.job import Job, Outcome, Port, Progress
from ..exporters.ports import to_artifact, to_source
from ..sources.loading.reference import load_reference
from ..targets.errors import ConversionFailed
from . import audit, runners
from .fidelity import compare_output
from .measure import PeakMemory, latency_ms

Feeds = Mapping[str, np.ndarray[Any, Any]]


def reference(job: Job, progress: Progress) -> Outcome:
    """Run the source on the held-out samples; outputs go to options["reference"] as one .npz.

    Keys are "<sample index>|<output name>". Data: source_latency_ms {p50, p90} on this host.
    """
    held_out = SampleSet.open(Path(str(job.samples)) / "held_out")
    progress("run the source", 0, held_out.count)
    model = load_reference(job.source_kind, Path(job.source_path), job.options)
    saved: dict[str, np.ndarray[Any, Any]] = {}
    first: Feeds = {}
    for index, feed in enumerate(held_out.feeds(trim=bool(job.options["source_free_sequence"]))):
        progress("run the source", index, held_out.count)
        first = first or feed
        for name, value in model(feed).items():
            saved[f"{index}|{name}"] = np.asarray(value)
    progress("run the source", held_out.count, held_out.count)
    path = Path(str(job.options["reference"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **saved)  # type: ignore[arg-type]
    return Outcome(data={"source_latency_ms": latency_ms(lambda: model(first))})


def compare(job: Job, progress: Progress) -> Outcome:
    """Run the written artifact on the held-out samples and count what the file holds.

    Data: fidelity (figures per output), audit, latency_ms, peak_memory_bytes; figures that no runner or
    auditor of this format can give are None. `not_checked` says why an artifact could not be run at all, and
    `proof` what running it shows where that is not its own runtime: then there are no figures of speed and
    memory. Raises ConversionFailed where the artifact does not load.
    """
    artifact, file_format = Path(str(job.options["artifact"])), str(job.options["format"])
    progress("count the file", 0, 1)
    counted = audit.audit(artifact, file_format)
    memory = PeakMemory()
    runner: runners.Runner | None = None
    unknown = ""
    try:
        asked = str(job.options.get("runner") or file_format)
        runner = runners.load(artifact, asked, threads=int(job.options["threads"]))
    except runners.NotChecked as error:
        unknown = str(error)
    except Exception as error:
        raise ConversionFailed(
            f"the written file does not load in its runtime: {error}", where=artifact.name
        ) from error
    data: dict[str, Any] = {
        "audit": None if counted is None else dataclasses.asdict(counted),
        "fidelity": None,
        "latency_ms": None,
        "peak_memory_bytes": None,
        "proof": getattr(runner, "proof", None),
    }
    if runner is not None:
        try:
            data["fidelity"] = _fidelity(job, runner, progress)
        except runners.NotChecked as error:
            unknown = str(error)
        else:
            if data["proof"] is None:
                data["latency_ms"] = latency_ms(runner.invoke)
                data["peak_memory_bytes"] = memory.grown()
    data["not_checked"] = unknown or None
    return Outcome(data=data)


def _fidelity(job: Job, runner: runners.Runner, progress: Progress) -> dict[str, Any]:
    held_out = SampleSet.open(Path(str(job.samples)) / "held_out")
    inputs, outputs = Port.read(job.options["input_ports"]), Port.read(job.options["output_ports"])
    references: dict[str, list[np.ndarray[Any, Any]]] = {port.source: [] for port in outputs}
    actuals: dict[str, list[np.ndarray[Any, Any]]] = {port.source: [] for port in outputs}
    with np.load(Path(str(job.options["reference"])), allow_pickle=False) as saved:
        trim = bool(job.options["source_free_sequence"]) and runner.free_sequence
        for index, feed in enumerate(held_out.feeds(trim=trim)):
            progress("run the artifact", index, held_out.count)
            given = to_source(runner.run(to_artifact(feed, inputs)), outputs)
            for name, value in given.items():
                actuals[name].append(value)
                references[name].append(saved[f"{index}|{name}"])
    progress("run the artifact", held_out.count, held_out.count)
    labels = held_out.labels
    compared = {name: compare_output(name, references[name], actuals[name], labels) for name in references}
    return {"samples": held_out.count, "outputs": compared}
