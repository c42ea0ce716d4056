"""Jobs of the vLLM exporter: made, and run in this process; and llm-compressor's own checkpoint to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import tiny_llms
from modelport.calibration.samples import write_set
from modelport.exporters.job import Job, Outcome
from modelport.exporters.runtimes import vllm

Array = np.ndarray[Any, Any]

WINDOWS, TOKENS = 6, 48


def source(folder: Path, architecture: str = "qwen2", **options: Any) -> Path:
    """A tiny model in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return tiny_llms.make(architecture, folder, **options)


def windows() -> Array:
    """Calibration windows of random tokens."""
    return np.random.default_rng(0).integers(5, 700, (WINDOWS, TOKENS))


def make_job(folder: Path, model: Path, scheme: str, *, calibrated: bool = False, **options: Any) -> Job:
    """A job for server-gpu-llm under `folder`, with calibration windows where asked."""
    for name in ("staging", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if calibrated:
        write_set(folder / "samples" / "calibration", {"input_ids": windows()})
    return Job(
        (), "causal-lm", str(model), "server-gpu-llm", "vllm", scheme, str(folder / "staging"),
        str(folder / "work"), str(folder / "samples"), {"threads": 1, "calibrated": calibrated, **options},
    )  # fmt: skip


def export(job: Job) -> tuple[Path, Outcome]:
    """The checkpoint's folder, and what the exporter reports."""
    outcome = vllm.export(job, quiet)
    return Path(job.staging) / outcome.files[0], outcome


def quiet(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def compress(model: Path, out: Path, recipe: str, *, calibrate: bool) -> Path:
    """What `llmcompressor.oneshot` writes for a recipe, on the same windows."""
    import torch
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pin = IntermediatesCache.pin_memory
    IntermediatesCache.pin_memory = lambda *_, **__: None  # AWQ fails without an accelerator otherwise
    given: dict[str, Any] = {}
    if calibrate:
        rows = [torch.tensor(window) for window in windows()]
        items: Any = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
        given = {"dataset": DataLoader(items, batch_size=1), "pipeline": "sequential"}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
        oneshot(model=loaded, recipe=recipe, **given)
        loaded.save_pretrained(out)
    finally:
        IntermediatesCache.pin_memory = pin
        torch.set_num_threads(threads)
    return out
