"""From a request and its check to the job that workers carry out, and its workers one after the other."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .exporters import isolate, plan, staging
from .exporters.job import Job, Outcome

if TYPE_CHECKING:
    from .pipeline import Check
    from .request import Request

OnProgress = Callable[[str, int, int], None]

SAMPLES = {"arrays": 320, "language": 80}
"""How many samples, or windows of text, are used at the most where the user does not say; held-out ones included."""

COMPARED_WITH = ("base", "plain")
"""What an exporter may leave in its work folder for the comparison, by path: the model in 16 bits, and the
same scheme without the importance matrix."""


def build(request: Request, checked: Check, chosen: plan.Plan, stage: staging.Staging) -> Job:
    """The job of one conversion, with every option that a step reads."""
    work = stage.work
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
            "format": checked.target.format,
            "runner": checked.target.runner,
            "calibrated": request.calibration is not None,
            "held_out": request.held_out,
            "reference": str(work / "reference.npz"),
            "samples": request.samples or SAMPLES[checked.target.verify],
            "seed": request.seed,
            "threads": checked.threads,
            "runtime_module": chosen.runtime_module,
            "extra": checked.target.extra,
            "folder": str(Path.cwd()),
            "user_path": str(Path.cwd()) if _names_function(request.calibration) else None,
            **(
                _language_options(request, checked)
                if checked.target.verify == "language"
                else _array_options(request, checked)
            ),
        },
    )


def _array_options(request: Request, checked: Check) -> dict[str, Any]:
    sequence_free = any(
        io.shape and len(io.shape) > 1 and isinstance(io.shape[1], str) for io in checked.facts.inputs
    )
    sequence = request.sequence
    if sequence is None and sequence_free:
        sequence = checked.facts.assumed.get("sequence", checked.sequence)
    return {
        "calibration": request.calibration or "random",
        "inputs": [dataclasses.asdict(io) for io in checked.facts.inputs],
        "compute_units": request.compute_units,
        "deployment_target": request.deployment_target,
        "fit": request.fit,
        "min_cosine": checked.scheme.min_cosine,
        "offline_plan": request.offline_plan,
        "ram_bytes": checked.device.usable_bytes,
        "device_title": checked.device.title,
        "image_input": request.image_input,
        "labels": None if request.labels is None else str(request.labels.resolve()),
        "layout": request.layout,
        "mesh": request.mesh,
        "metadata": list(request.metadata),
        "shapes": request.shapes,
        "workspace": request.workspace,
        "timing_cache": request.timing_cache,
        "version_compatible": request.version_compatible,
        "hardware_compatible": request.hardware_compatible,
        "builder_level": request.builder_level,
        # A worker sees no GPU where nothing of it needs one.
        "gpu": checked.target.runtime == "tensorrt",
        "observer": request.observer,
        "opset": request.opset,
        "sequence": sequence,
        "sequence_asked": request.sequence is not None,
        "signature": request.signature,
        "source_free_sequence": sequence_free,
    }


def _language_options(request: Request, checked: Check) -> dict[str, Any]:
    llm, serving = checked.facts.llm, checked.serving.get(checked.device.name)
    return {
        "calibration": request.calibration,
        # What is not quantized is compared with the source alone.
        "memory_limit": request.memory_limit,
        "base": "float" not in checked.scheme.weights,
        "context": llm.context if llm else None,
        "sequence": request.sequence,
        "imatrix": None if request.imatrix is None else str(request.imatrix.resolve()),
        "via": request.via,
        "two_step": request.two_step,
        "requantize": request.requantize,
        "prompt": request.prompt,
        "kv_type": request.kv_type,
        "chat_template": request.chat_template,
        "resume": None if request.resume is None else str(request.resume.resolve()),
        "source_sha256": None if request.resume is None else checked.source.sha256(),
        "serving": None if serving is None else dataclasses.asdict(serving),
        "weights": checked.scheme.weights,
        "source_bytes": checked.facts.weight_bytes,
        "parameters": checked.facts.parameters,
        "source_free_sequence": False,
    }


def run(
    job: Job, workers: tuple[tuple[str, ...], ...], request: Request, on_progress: OnProgress | None
) -> isolate.Finished:
    """Run each worker's steps in a process of its own; gives all outcomes, the time and the highest peak."""
    made = isolate.Finished()
    for steps in workers:
        done = isolate.run(
            dataclasses.replace(job, steps=steps),
            on_progress=on_progress,
            memory_limit=request.memory_limit,
            timeout=request.timeout,
        )
        made.update(done)
        made.seconds += done.seconds
        made.peak_bytes = max(made.peak_bytes, done.peak_bytes)
    return made


def verifying(job: Job, exported: Outcome) -> Job:
    """The job for the workers that look at what was written; each loads only what it needs."""
    return dataclasses.replace(
        job,
        options={
            **job.options,
            "artifact": str(Path(job.staging) / exported.files[0]),
            "input_ports": [dataclasses.asdict(port) for port in exported.inputs],
            "output_ports": [dataclasses.asdict(port) for port in exported.outputs],
            **{name: exported.data[name] for name in COMPARED_WITH if name in exported.data},
        },
    )


def _names_function(calibration: str | None) -> bool:
    """Whether the data comes from a `module:function` of the user's, so that the worker must find it."""
    return (
        calibration is not None
        and re.fullmatch(r"[\w.]+:\w+", calibration) is not None
        and not Path(calibration).exists()
    )
