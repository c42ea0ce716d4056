"""Exporter of compressed-tensors checkpoints, which vLLM serves, by llm-compressor's schemes."""

from __future__ import annotations

from ...job import Job, Outcome, Progress

REQUIRES = ("numpy", "ml_dtypes", "tokenizers")
"""Modules that every scheme needs; those that look at activations want torch, transformers and llmcompressor too."""


def export(job: Job, progress: Progress) -> Outcome:
    """Write the folder `checkpoint` and serve.sh into the staging folder.

    Options: calibrated, threads, context, serving, resume (a folder), source_sha256. `data` tells time, bytes and
    the lines that serve the checkpoint.
    """
    from . import produce

    return produce.run(job, progress)


def sizes(job: Job, progress: Progress) -> Outcome:
    """The exact size of the checkpoint in every scheme of options["schemes"], before a weight is read.

    `data`: file_bytes and tensor_bytes by scheme.
    """
    from . import produce

    return produce.foretell(job, progress)
