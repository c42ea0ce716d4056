"""Exporter of GGUF for llama.cpp: one streaming pass from the checkpoint to the quantized file."""

from __future__ import annotations

from ...job import Job, Outcome, Progress

REQUIRES = ("gguf", "llama_cpp", "numpy", "tokenizers")
"""Modules that must be installed; the extra `local-llm` brings them."""


def header(job: Job, progress: Progress) -> Outcome:
    """Write what stands before the weights into the job's work folder: keys, vocabulary and the tensor list.

    For a checkpoint the tokenizer must agree with llama.cpp's on every test line; a GGUF source's keys are
    copied. Raises Unsupported, SourceUnreadable or ConversionFailed before a weight is read.
    """
    from . import heading

    return heading.write(job, progress)


def export(job: Job, progress: Progress) -> Outcome:
    """Write `model.gguf` into the staging folder from what `header` left, in one pass over the weights.

    Options: threads, via, imatrix, calibrated, two_step, requantize, base. `data` tells time, bytes by type
    and, where they were made, the paths "base" (the model in 16 bits) and "plain" (without importance).
    """
    from . import produce

    return produce.run(job, progress)


def sizes(job: Job, progress: Progress) -> Outcome:
    """The exact size of the file in every scheme of options["schemes"], before a weight is read.

    `data`: file_bytes and tensor_bytes by scheme, and header_bytes.
    """
    from . import foretell

    return foretell.run(job, progress)
