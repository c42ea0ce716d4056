"""The usual two steps, kept for comparison: a file in 16 bits first, then llama.cpp's quantizer over it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....sources.gguf import header
from ....targets.errors import Unsupported
from ...job import Job, Progress
from . import mixture, one_pass
from .file import ALIGNMENT, Described

if TYPE_CHECKING:
    from .mixture import Importance

UNQUANTIZED = "unquantized.gguf"


def run(
    job: Job, model: one_pass.Model, out: Path, progress: Progress, importance: Importance | None
) -> one_pass.Written:
    """Write `out` by llama_model_quantize, over the source itself where that is a GGUF file.

    Raises ConversionFailed with llama.cpp's words, and Unsupported for a file of another alignment: llama.cpp
    would write tensors 32 bytes apart under a header that says otherwise.
    """
    threads = one_pass.threads(job)
    source = Path(job.source_path)
    if job.source_kind == "gguf" and (own := header.read_header(source).alignment) != ALIGNMENT:
        raise Unsupported(
            f"llama.cpp's quantizer spoils files that are aligned to {own} bytes",
            where=f"{source.name}: general.alignment",
            mend="Leave out --two-step: one pass aligns the tensors anew",
        )
    if job.source_kind != "gguf":
        source = Path(job.work) / UNQUANTIZED
        route = one_pass.route(one_pass.own_scheme(model.tensors), job.quant, job.options.get("via"))
        one_pass.write(model, model.between, route, source, progress, threads=threads, stage=f"write {route}")
    stage = "quantize in llama.cpp"
    progress(stage, 0, 1)
    try:
        mixture.quantize(source, out, job.quant, importance=importance, threads=threads)
    finally:
        if job.source_kind != "gguf":
            source.unlink(missing_ok=True)
    progress(stage, 1, 1)
    written = [Described(info.name, info.type, info.shape) for info in header.read_header(out).tensors]
    return one_pass.Written(out.stat().st_size, one_pass.by_type(written))
