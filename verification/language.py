"""The worker steps of verification for language models: log-probabilities of held-out text, compared.

`source` runs the checkpoint in torch, where it fits in memory. `compare`, in a process of its own, runs the
artifact (in llama.cpp, or what opens its format) and holds it against the same model in 16 bits, or the source.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibration.samples import SampleSet
from ..exporters.job import Job, Outcome, Progress
from ..targets import figures, host
from ..targets.errors import ModelportError
from . import audit, bandwidth, runners
from .language_figures import (
    Recorded,
    Recorder,
    compare_recorded,
    first_position,
    log_probabilities,
    perplexity,
    windows_to_run,
)
from .language_runs import Run, format_of, kv_of, record, run, threads_of
from .measure import PeakMemory

if TYPE_CHECKING:
    from .runners.gguf import LlamaRunner

Array = np.ndarray[Any, Any]

SOURCE = "source.npz"
"""The source's log-probabilities, in the job's work folder."""
WHY = "source.json"
"""Beside it: why there are none."""
MEASURED = ("latency_ms", "speed", "peak_memory_bytes", "sample")
"""Figures that only the artifact's own runtime can give."""


def held_out(job: Job) -> Array:
    """The windows of held-out tokens: int64 (windows, tokens)."""
    return SampleSet.open(Path(str(job.samples)) / "held_out").array("input_ids")


def source(job: Job, progress: Progress) -> Outcome:
    """Log-probabilities of the checkpoint in torch, float32, on the held-out windows; data: source_latency_ms.

    Left out, with the reason as data["why"], where the kind of source cannot be run, torch is not installed,
    or the model does not fit in this machine's memory.
    """
    progress("run the source", 0, 1)
    why = _no_source(job)
    windows = 0
    if why is None:
        try:
            windows = _run_source(job, progress)
        except (ImportError, ModelportError) as error:
            Path(job.work, SOURCE).unlink(missing_ok=True)
            why = f"the source was not run: {error}"
    Path(job.work, WHY).write_text(json.dumps({"why": why}), encoding="utf-8")
    notes = () if why is None else (f"The artifact was not compared with the source in torch: {why}",)
    return Outcome(notes=notes, data={"source_latency_ms": None, "why": why, "windows": windows})


def _no_source(job: Job) -> str | None:
    """Why the source is not run, by its kind and by the memory that it takes; None where it can be."""
    import importlib.util

    from ..sources.huggingface.causal_lm import KIND
    from ..sources.loading import causal_lm

    if job.source_kind != KIND:
        return f"a source of kind {job.source_kind!r} is run in llama.cpp alone"
    lacking = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed"
    needed = causal_lm.memory_bytes(Path(job.source_path))
    limits = [limit for limit in (host.available_bytes(), job.options.get("memory_limit")) if limit]
    if limits and needed > min(limits):
        return (
            f"it takes about {figures.size(needed)} of memory in float32, and {figures.size(min(limits))} "
            "can be had"
        )
    return None


def _run_source(job: Job, progress: Progress) -> int:
    from ..sources.loading.reference import load_reference

    windows = held_out(job)
    model = load_reference(job.source_kind, Path(job.source_path), job.options)
    first = first_position(windows.shape[1])
    count = len(windows)
    with Recorder(Path(job.work, SOURCE), "the source in torch") as recorder:
        index = 0
        while index < count:
            progress("run the source", index, count)
            logits = model({"input_ids": windows[index : index + 1]})["logits"][0]
            if not index:
                parameters = int(job.options.get("parameters") or 1)
                count = windows_to_run(count, windows.shape[1], logits.shape[1], parameters)
            recorder.add(log_probabilities(logits[first:-1]), windows[index])
            index += 1
    progress("run the source", count, count)
    return count


def compare(job: Job, progress: Progress) -> Outcome:
    """Run and measure the artifact and compare it; count what the file holds.

    Options: artifact; base (the model in 16 bits) or reference (log-probabilities that were kept; written
    here where they are not there yet); plain (the same scheme without importance matrix); prompt; kv_type;
    threads; format. Data: fidelity, audit, latency_ms, speed, peak_memory_bytes, sample, without_importance; and
    `proof`, where what runs the artifact is not its own runtime and there are no figures of speed and memory, or
    `not_checked`, where nothing here can run it. Raises ConversionFailed where a file does not load.
    """
    artifact = Path(str(job.options["artifact"]))
    progress("count the file", 0, 1)
    counted = audit.audit(artifact, format_of(job))
    data: dict[str, Any] = dict.fromkeys((*MEASURED, "fidelity", "without_importance", "not_checked"))
    data["audit"] = None if counted is None else dataclasses.asdict(counted)
    windows = held_out(job)
    data["proof"] = getattr(runners.of_format(format_of(job)), "PROOF", None)
    if data["proof"] is None:
        data |= _measured(job, artifact, windows, threads_of(job), progress)
    try:
        compared = _compared(job, artifact, windows, progress)
    except runners.NotChecked as error:
        return Outcome(data={**data, "proof": None, "not_checked": str(error)})
    return Outcome(notes=_cut(data["sample"]), data=data | compared)


def _compared(job: Job, artifact: Path, windows: Array, progress: Progress) -> dict[str, Any]:
    """Data: fidelity and without_importance."""
    data: dict[str, Any] = {"fidelity": None, "without_importance": None}
    reference = _reference(job, windows, progress)
    if reference is None:
        ran = run(job, artifact, windows, [], progress, "run the artifact")
        data["fidelity"] = _bare(ran, _why(job))
        return data
    with reference:
        data["fidelity"] = _fidelity(job, artifact, windows, reference, progress)
        plain = job.options.get("plain")
        if isinstance(plain, str):
            ran = run(job, Path(plain), windows, [reference], progress, "run the artifact without importance")
            data["without_importance"] = {
                "perplexity": perplexity(ran.targets),
                "kl": ran.compared[0].divergence(),
                "top1_agreement": ran.compared[0].logits()["top1_agreement"],
            }
    return data


def _measured(job: Job, artifact: Path, windows: Array, threads: int, progress: Progress) -> dict[str, Any]:
    """Speeds, memory and the sample sentence of a GGUF file: the artifact alone in the process."""
    from . import decode_bytes
    from .runners import gguf

    progress("measure the artifact", 0, 1)
    memory = PeakMemory()
    runner = gguf.LlamaRunner(artifact, threads, kv_of(job))
    try:
        speed = runner.speed(windows[0])
        peak = memory.grown()
        kept = speed.tokens + gguf.RUNS // 2
        read = decode_bytes.of_token(artifact, runner.model, kept, kv_of(job))
        sample = _sample(runner, job.options.get("prompt"))
    finally:
        runner.close()
    rate = bandwidth.read_bytes_per_second(threads)
    progress("measure the artifact", 1, 1)
    return {
        "latency_ms": speed.latency_ms,
        "speed": {
            "threads": threads,
            "prefill_tokens": speed.tokens,
            "prefill_tokens_per_second": speed.prefill,
            "decode_tokens_per_second": speed.decode,
            "predicted_decode_tokens_per_second": None if rate is None else rate / read,
            "bytes_per_token": read,
            "bandwidth": rate,
        },
        "peak_memory_bytes": peak,
        "sample": sample,
    }


def _cut(sample: dict[str, Any] | None) -> tuple[str, ...]:
    if not sample or not sample["cut_tokens"]:
        return ()
    return (
        f"The prompt does not go into the model's context: its first {sample['cut_tokens']:,} tokens were left out.",
    )


def _sample(runner: LlamaRunner, prompt: object) -> dict[str, Any] | None:
    """What the artifact makes of the prompt, and how many of its first tokens were left out for want of room."""
    if prompt is None:
        return None
    text, cut = runner.continued(str(prompt))
    return {"prompt": str(prompt), "text": text, "cut_tokens": cut}


def _reference(job: Job, windows: Array, progress: Progress) -> Recorded | None:
    """What the artifact is held against: kept rows, the 16-bit model's, or the source's; None: nothing."""
    kept, base = Path(str(job.options["reference"])), job.options.get("base")
    if not kept.is_file() and isinstance(base, str):  # before the export, only whether one is wanted
        record(job, Path(base), windows, kept, progress)
    made = Path(job.work, SOURCE)
    if not kept.is_file() and made.is_file():
        kept.write_bytes(made.read_bytes())
    return Recorded(kept) if kept.is_file() else None


def _bare(ran: Run, why: str | None) -> dict[str, Any]:
    """What can be said of an artifact that there is nothing to compare with."""
    return {
        "samples": ran.windows,
        "tokens": len(ran.targets),
        "outputs": {},
        "against": None,
        "perplexity": {"artifact": perplexity(ran.targets), "reference": None, "source": None},
        "kl": None,
        "source": None,
        "why": why,
    }


def _fidelity(
    job: Job, artifact: Path, windows: Array, reference: Recorded, progress: Progress
) -> dict[str, Any]:
    with ExitStack() as opened:
        path = Path(job.work, SOURCE)
        source = opened.enter_context(Recorded(path)) if path.is_file() else None
        held_against = [reference, *([source] if source else [])]
        ran = run(job, artifact, windows, held_against, progress, "run the artifact")
        of_source = None if source is None else _against_source(ran, source, reference)
    return {
        "samples": ran.windows,
        "tokens": len(ran.targets),
        "outputs": {"logits": ran.compared[0].logits()},
        "against": reference.against,
        "perplexity": {
            "artifact": perplexity(ran.targets),
            "reference": perplexity(reference.targets),
            "source": of_source and of_source["perplexity"],
        },
        "kl": ran.compared[0].divergence(),
        "source": of_source,
        "why": _why(job),
    }


def _against_source(ran: Run, source: Recorded, reference: Recorded) -> dict[str, Any]:
    """The 16-bit model against torch tells whether the architecture is right; the artifact against torch, all.

    Both are None where the source is the reference itself.
    """
    found: dict[str, Any] = {"samples": source.count, "perplexity": perplexity(source.targets)}
    if source.against == reference.against:
        return {**found, "reference": None, "artifact": None}
    base, artifact = compare_recorded(source, reference), ran.compared[1]
    return {
        **found,
        "reference": {**base.logits(), "kl": base.divergence()},
        "artifact": {**artifact.logits(), "kl": artifact.divergence()},
    }


def _why(job: Job) -> str | None:
    path = Path(job.work, WHY)
    if not path.is_file():
        return None
    why: str | None = json.loads(path.read_text(encoding="utf-8"))["why"]
    return why
