"""The exact size of the file in every scheme, from configuration and tokenizer alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ....sources.gguf import parts
from ....sources.huggingface import checkpoint
from ...job import Job, Outcome, Progress
from . import blueprint, heading, mixture, one_pass, rows
from .file import Described, lay_out


def run(job: Job, progress: Progress) -> Outcome:
    """`data`: {"file_bytes": {scheme: n}, "tensor_bytes": {scheme: n}, "header_bytes": n}.

    With options "calibrated" or "imatrix" the sizes are those of files made with an importance matrix, which
    differ in some schemes.
    """
    progress("size of the file", 0, 1)
    entries, tensors = heading.foretold(job)
    between = _between(job, tensors)
    weighed = bool(job.options.get("calibrated") or job.options.get("imatrix"))
    importance = {tensors[0].name: np.ones(1, np.float32)} if weighed else None
    front = 0
    tensor_bytes: dict[str, int] = {}
    for scheme in job.options["schemes"]:
        source = [Described(tensor.name, kind, tensor.shape) for tensor, kind in between(scheme)]
        types = mixture.decide(entries, source, scheme, Path(job.work), importance=importance)
        target = [Described(was.name, kind, was.shape) for was, kind in zip(source, types, strict=True)]
        # Types and file type are numbers of fixed size: what stands in front is as long in every scheme.
        front = front or len(lay_out(entries, target, mixture.file_type(scheme)).front)
        tensor_bytes[scheme] = sum(tensor.padded for tensor in target)
    file_bytes = {scheme: front + nbytes for scheme, nbytes in tensor_bytes.items()}
    progress("size of the file", 1, 1)
    return Outcome(data={"file_bytes": file_bytes, "tensor_bytes": tensor_bytes, "header_bytes": front})


def _between(
    job: Job, tensors: Sequence[blueprint.Tensor]
) -> Callable[[str], Iterable[tuple[blueprint.Tensor, int]]]:
    """For a scheme, each tensor with its type in the file that llama.cpp's quantizer would read."""
    if job.source_kind == "gguf":
        places = parts.read_model(Path(job.source_path)).places
        kept = [(tensor, rows.type_id(places[tensor.name].dtype)) for tensor in tensors]
        return lambda scheme: kept
    config = checkpoint.read_config(Path(job.source_path)).values
    own = {"float16": "f16", "bfloat16": "bf16"}.get(
        str(config.get("dtype") or config.get("torch_dtype")), "f32"
    )

    def listed(scheme: str) -> list[tuple[blueprint.Tensor, int]]:
        kind = one_pass.FLOAT_SCHEMES[one_pass.route(own, scheme, job.options.get("via"))]
        return [(tensor, mixture.F32 if tensor.float32 else kind) for tensor in tensors]

    return listed
