"""The export worker's story: importance, types, the one pass, and what verification compares with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....calibration.samples import SampleSet
from ....targets import figures, host
from ....targets.errors import ConversionFailed, UsageError
from ...job import Job, Outcome, Progress
from . import mixture, one_pass, two_step

if TYPE_CHECKING:
    from .mixture import Importance

ARTIFACT, MATRIX = "model.gguf", "imatrix.gguf"
UNWEIGHED = ("f32", "f16", "bf16", "q8_0")
"""Schemes that ggml rounds in one way only, whatever matters."""
RUN = (
    ("llama.cpp", f'llama-cli -m {ARTIFACT} -p "Once upon a time" -n 64'),
    (
        "llama-cpp-python",
        f"python -c \"from llama_cpp import Llama; print(Llama('{ARTIFACT}')"
        "('Once upon a time', max_tokens=64)['choices'][0]['text'])\"",
    ),
)
"""What runs the artifact: program and line."""
BASE, PLAIN = "base.gguf", "plain.gguf"
"""In the work folder: the model in 16 bits, and the scheme without importance."""


@dataclass(frozen=True)
class _Weighing:
    """The importance matrix, if any, and what was made for it."""

    values: Importance | None = None
    name: str = ""
    """Its file, for errors."""
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def run(job: Job, progress: Progress) -> Outcome:
    """Write the artifact, and beside it the importance matrix where one was collected."""
    model = one_pass.open_model(job)
    weighing = _given(job)
    _types(job, model, weighing)  # refuses what cannot be done, before the long work
    base, base_notes = _base(job, model, progress)
    if base is not None and _observes(job):
        weighing = _collect(job, base, progress)
    started = time.perf_counter()
    written, notes = _write(job, model, Path(job.staging) / ARTIFACT, progress, weighing)
    seconds = time.perf_counter() - started
    data: dict[str, Any] = {
        "seconds": seconds,
        "bytes_written": written.total,
        "types": dict(written.types),
        "threads": one_pass.threads(job),
        "lanes": written.lanes,
        "run": RUN,
        "beside": weighing.files,
    }
    if job.options.get("base") and base is not None:
        data["base"] = str(base)
        if weighing.values is not None:
            plain = Path(job.work) / PLAIN
            _write(job, model, plain, progress, _Weighing(), stage="quantize without importance")
            data["plain"] = str(plain)
    notes = base_notes + weighing.notes + notes
    if job.source_kind == "gguf" and job.options.get("via"):
        notes += (
            f"--via {job.options['via']} changes nothing: a GGUF source is quantized from what it holds.",
        )
    return Outcome(files=(ARTIFACT, *weighing.files), notes=notes, data=data)


def _types(job: Job, model: one_pass.Model, weighing: _Weighing) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Each tensor's type, and notes. Refuses low-bit weights, and another model's importance matrix."""
    types = mixture.decide(
        model.entries, model.described, job.quant, Path(job.work), importance=weighing.values
    )
    notes = one_pass.require_allowed(model, types, bool(job.options.get("requantize")))
    one_pass.weigh(model, types, weighing.values, weighing.name)
    return types, notes


def _write(
    job: Job,
    model: one_pass.Model,
    out: Path,
    progress: Progress,
    weighing: _Weighing,
    stage: str = "quantize",
) -> tuple[one_pass.Written, tuple[str, ...]]:
    types, notes = _types(job, model, weighing)
    if job.options.get("two_step"):
        return two_step.run(job, model, out, progress, weighing.values), notes
    written = one_pass.write(
        model,
        types,
        job.quant,
        out,
        progress,
        threads=one_pass.threads(job),
        importance=weighing.values,
        importance_name=weighing.name,
        stage=stage,
    )
    return written, notes


def _base(job: Job, model: one_pass.Model, progress: Progress) -> tuple[Path | None, tuple[str, ...]]:
    """The model unquantized, where something is to run it: a GGUF source itself, or a file in 16 bits.

    In q8_0 where 16 bits would not fit into memory.
    """
    if not (job.options.get("base") or _observes(job)):
        return None, ()
    if job.source_kind == "gguf":
        return Path(job.source_path), ()
    path, threads = Path(job.work) / BASE, one_pass.threads(job)
    needed, free = 2 * sum(bound.tensor.elements for bound in model.tensors), host.available_bytes()
    if free is not None and needed > 0.8 * free:
        types = mixture.decide(model.entries, model.described, "q8_0", Path(job.work))
        one_pass.write(model, types, "q8_0", path, progress, threads=threads, stage="write q8_0")
        return path, (
            f"In 16 bits the model takes {figures.size(needed)} of memory: it was run and compared with in q8_0.",
        )
    own = one_pass.own_scheme(model.tensors)
    wanted = own if own != "f32" else "f16"
    for scheme in dict.fromkeys((job.options.get("via") or wanted, "bf16")):
        base = model.through(scheme)
        try:
            one_pass.write(
                base, base.between, scheme, path, progress, threads=threads, stage=f"write {scheme}"
            )
        except ConversionFailed:
            if scheme == "bf16" or job.options.get("via"):
                raise
            continue
        note = f"Compared with the model in {scheme}: some weights are too large for float16."
        return path, (note,) if scheme != wanted and not job.options.get("via") else ()
    raise AssertionError("bf16 holds what float32 holds")


def _observes(job: Job) -> bool:
    """Whether an importance matrix is to be collected."""
    asked = job.options.get("calibrated") and not job.options.get("imatrix")
    return bool(asked) and job.quant not in UNWEIGHED


def _given(job: Job) -> _Weighing:
    """The importance matrix that was given as a file, if one was."""
    given = job.options.get("imatrix")
    if given:
        from . import imatrix

        return _Weighing(imatrix.read(Path(given)), Path(given).name)
    if job.options.get("calibrated") and not _observes(job):
        why = f"{job.quant} rounds every weight in the same way: the text serves verification alone."
        return _Weighing(notes=(why,))
    return _Weighing()


def _collect(job: Job, base: Path, progress: Progress) -> _Weighing:
    """The importance matrix of the calibration text, written to be published."""
    from . import imatrix, importance

    if job.samples is None:
        raise UsageError("an importance matrix needs text to run the model on", mend="Add --calibration FILE")
    out = Path(job.staging) / MATRIX
    windows = SampleSet.open(Path(job.samples) / "calibration").array("input_ids")
    collected = importance.collect(
        base,
        windows.reshape(len(windows), -1),
        out,
        threads=one_pass.threads(job),
        progress=progress,
        datasets=(Path(str(job.options.get("calibration"))).name,),
    )
    return _Weighing(imatrix.read(out), MATRIX, (MATRIX,), collected.notes)
