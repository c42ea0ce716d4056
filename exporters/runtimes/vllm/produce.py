"""The export worker's story: what will be written, the weights by one of two roads, and the files around them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....calibration.samples import SampleSet
from ....sources.huggingface import checkpoint
from ....targets import host
from ....targets.errors import ConversionFailed, MissingExtra, SourceUnreadable, Unsupported, UsageError
from ...job import Job, Outcome, Progress
from . import layout, schemes, serve, shards
from .layout import Layout
from .schemes import Scheme

FOLDER, RECIPE = "checkpoint", "recipe.yaml"
LEFT_OUT = ("README.md", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
"""Files that say something of the source that is not true of the result."""
FORMAT_VERSION = "0.19.0"
"""The version of compressed-tensors' format that is written where the package is not installed."""
LIBRARIES = ("torch", "transformers", "llmcompressor", "compressed-tensors")
"""What the numbers of a calibrated scheme depend on, beside the source, the recipe and the text."""
NOT_RUN = "vLLM itself was not run here."


def run(job: Job, progress: Progress) -> Outcome:
    """Write the folder `checkpoint` and serve.sh into the staging folder."""
    source, scheme = Path(job.source_path), _scheme(job)
    planned = layout.of(source, scheme)
    files = shards.plan(planned.stored)
    folder = Path(job.staging, FOLDER)
    folder.mkdir()
    started = time.perf_counter()
    notes = _weights(job, source, planned, scheme, folder, files, progress)
    seconds = time.perf_counter() - started
    _around(job, source, planned, scheme, folder)
    given = serve.arguments(job.options.get("serving"), job.options.get("context"))
    script = Path(job.staging, serve.SCRIPT)
    script.write_text(serve.script(given), encoding="utf-8")
    script.chmod(0o755)
    return Outcome(
        files=(FOLDER, serve.SCRIPT),
        notes=(*planned.notes, *notes, *_splits(planned, scheme, job.options.get("serving")), NOT_RUN),
        data={
            "seconds": seconds,
            "bytes_written": files.nbytes,
            "threads": _threads(job),
            "run": serve.lines(scheme, given),
            "beside": (serve.SCRIPT,),
        },
    )


def foretell(job: Job, progress: Progress) -> Outcome:
    """`data`: {"file_bytes": {scheme: n}, "tensor_bytes": {scheme: n}}, to the byte but for the small files' own.

    A scheme that this model's matrices do not divide into is left out. Raises Unsupported for a model that no
    scheme takes.
    """
    progress("size of the file", 0, 1)
    source = Path(job.source_path)
    file_bytes, tensor_bytes = {}, {}
    refused: Unsupported | None = None
    for name in job.options["schemes"]:
        scheme = schemes.find(name, calibrated=bool(job.options.get("calibrated")))
        try:
            planned = layout.of(source, scheme)
        except Unsupported as error:
            refused = error
            continue
        around = _companions(source)
        small = sum(path.stat().st_size for path in around) + len(_config(source, planned, scheme))
        recipe = schemes.recipe(scheme, planned.ignore)
        file_bytes[name] = shards.plan(planned.stored).nbytes + small + len(recipe.encode())
        tensor_bytes[name] = planned.nbytes
    if refused is not None and not file_bytes:
        raise refused
    progress("size of the file", 1, 1)
    return Outcome(data={"file_bytes": file_bytes, "tensor_bytes": tensor_bytes})


def _splits(planned: Layout, scheme: Scheme, serving: Mapping[str, Any] | None) -> tuple[str, ...]:
    """A note where GPUs cannot share a matrix: its rows are split where vLLM splits them, between whole groups."""
    gpus = int((serving or {}).get("tensor_parallel") or 1)
    if scheme.weights != "int4" or gpus == 1:
        return ()
    split = ("o_proj.weight", "down_proj.weight")
    broken = [
        weight.name
        for weight in planned.weights
        if weight.name.endswith(split) and weight.place.shape[1] % (gpus * schemes.GROUP)
    ]
    if not broken:
        return ()
    return (
        f"On {gpus} GPUs vLLM cannot split {len(broken)} matrices, as {broken[0]}, "
        f"into whole groups of {schemes.GROUP}.",
    )


def _scheme(job: Job) -> Scheme:
    calibrated = bool(job.options.get("calibrated"))
    scheme = schemes.find(job.quant, calibrated=calibrated)
    if scheme.calibrates and not calibrated:
        raise UsageError(
            f"{scheme.name} looks at activations, and no text was given",
            where="--calibration",
            mend="Give --calibration TEXT (.txt or .jsonl)",
        )
    if job.options.get("resume"):
        schemes.require_resumable(scheme)
    return scheme


def _weights(
    job: Job,
    source: Path,
    planned: Layout,
    scheme: Scheme,
    folder: Path,
    files: shards.Files,
    progress: Progress,
) -> tuple[str, ...]:
    if not scheme.calibrates:
        from . import stream

        stream.write(planned, scheme, folder, files, progress)
        return ()
    if importlib.util.find_spec("llmcompressor") is None:
        raise MissingExtra(
            f"{scheme.name} is done by llm-compressor, which is not installed",
            where=f"--quant {scheme.name}",
            mend=f"pip install 'modelport[{job.options.get('extra') or job.target}]'",
        )
    import torch

    from . import sequential
    from .resume import Kept

    torch.set_num_threads(_threads(job))
    windows = SampleSet.open(Path(str(job.samples)) / "calibration").array("input_ids")
    if not len(windows):
        raise ConversionFailed("no window of text is left to calibrate on", where="--calibration")
    _require_ids(planned, int(windows.max()))
    resume = job.options.get("resume")
    kept = Kept(Path(str(resume)) if resume else None, _key(job, planned, scheme, windows))
    notes = sequential.write(source, planned, scheme, folder, files, windows, kept, progress)
    if kept.folder is None:
        return notes
    return (*notes, f"{resume} holds the finished layers, and may be removed now.")


def _require_ids(planned: Layout, highest: int) -> None:
    """Refuse text whose tokens the model has no rows for."""
    table = next(weight for weight in planned.weights if weight.name.endswith("embed_tokens.weight"))
    if highest >= table.place.shape[0]:
        raise SourceUnreadable(
            f"gives the token {highest}, and {table.name} has {table.place.shape[0]:,} rows",
            where="the tokenizer",
            mend="Give the tokenizer that belongs to the model",
        )


def _key(job: Job, planned: Layout, scheme: Scheme, windows: Any) -> Mapping[str, str]:
    """What a folder of finished layers belongs to."""
    return {
        "source": str(job.options.get("source_sha256") or ""),
        "recipe": hashlib.sha256(schemes.recipe(scheme, planned.ignore).encode()).hexdigest(),
        "calibration text": hashlib.sha256(windows.tobytes()).hexdigest(),
        "number of threads": str(_threads(job)),
        "versions": " ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES),
    }


def _threads(job: Job) -> int:
    return int(job.options.get("threads") or host.cpu_count())


def _companions(source: Path) -> list[Path]:
    return [path for path in checkpoint.companions(source) if path.name not in LEFT_OUT]


def _around(job: Job, source: Path, planned: Layout, scheme: Scheme, folder: Path) -> None:
    """config.json, the recipe, and everything that belongs to the tokenizer and to generation."""
    (folder / "config.json").write_bytes(_config(source, planned, scheme))
    recipe = schemes.recipe(scheme, planned.ignore)
    if recipe:
        (folder / RECIPE).write_text(recipe, encoding="utf-8")
    for path in _companions(source):
        # A copy of the bytes: a link would lead out of the folder, and the source's modes may be anything.
        (folder / path.name).write_bytes(path.read_bytes())


def _config(source: Path, planned: Layout, scheme: Scheme) -> bytes:
    """config.json as the source has it, without what names code, with the dtype and the quantization."""
    values = checkpoint.clean_config(source)
    if scheme.dtype:
        named = "dtype" if "dtype" in values and "torch_dtype" not in values else "torch_dtype"
        values[named] = scheme.dtype
        if "dtype" in values:
            values["dtype"] = scheme.dtype
    if scheme.quantizes:
        values["quantization_config"] = schemes.config(scheme, planned.ignore, _format_version())
    return json.dumps(values, indent=2, sort_keys=True).encode()


def _format_version() -> str:
    try:
        return importlib.metadata.version("compressed-tensors")
    except importlib.metadata.PackageNotFoundError:
        return FORMAT_VERSION
