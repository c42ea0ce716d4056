"""A Llama of any size with random, well-scaled weights, and two ways to a quantized GGUF, each measured whole."""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import llama_oracle
import tiny_llms
import tiny_tokenizers
from modelport import jobs, pipeline
from modelport.exporters import plan, staging
from modelport.request import Request

VOCABULARY = 32_000
SHAPE: dict[str, Any] = {
    "hidden": 2048,
    "heads": 32,
    "kv_heads": 4,
    "head_dim": 64,
    "feed": 5632,
    "context": 2048,
}
"""TinyLlama's; 22 layers of it are 1.1B parameters."""


@dataclass(frozen=True)
class Pass:
    """What one way took, its processes' start included."""

    cpu: float
    wall: float
    peak_bytes: int
    """The largest resident set of any of its processes."""
    written_bytes: int
    """Everything that it wrote, intermediate files included."""
    file: Path


def llama(folder: Path, layers: int) -> Path:
    """A bf16 Llama with a byte-level BPE of 32,000 tokens, in shards of at most a few hundred MB."""
    wide = tuple(_library_lines(16_000_000))
    vars(tiny_tokenizers)["training_lines"] = lambda: wide
    tiny_tokenizers._trained.cache_clear()
    folder.mkdir()
    return tiny_llms.make(
        "llama3", folder, tokens=VOCABULARY, shards=max(1, layers // 4), layers=layers, tied=False, **SHAPE
    )


def _library_lines(characters: int) -> Iterator[str]:
    """Lines of Python's standard library: enough text for a vocabulary of 32,000."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        text = "" if "site-packages" in path.parts else path.read_text(encoding="utf-8", errors="ignore")
        yield from (line for line in text.splitlines() if line.strip())
        characters -= len(text)
        if characters <= 0:
            return


def one_pass(folder: Path, scheme: str, work: Path, lanes: str = "") -> Pass:
    """modelport's own way: header and export, each in its worker; what verification needs is left out."""
    request = Request(folder, "local-llm", quant=scheme, force=True)
    checked = pipeline.check(request)
    chosen = plan.make_plan(checked.target, checked.scheme, calibrated=False)
    workers = tuple(tuple(step for step in worker if step != chosen.prepare) for worker in chosen.workers)
    os.environ["MODELPORT_LANES"] = lanes
    with staging.Staging(work / f"one-pass-{scheme}", overwrite=True, need_bytes=0) as stage:
        job = jobs.build(request, checked, chosen, stage)
        job.options["base"] = False  # type: ignore[index]
        began, used = time.perf_counter(), _cpu()
        made = jobs.run(job, workers, request, None)
        wall, cpu = time.perf_counter() - began, _cpu() - used
        written = _on_disk(stage.content) + _on_disk(stage.work)
        file = work / f"one-pass-{scheme}.gguf"
        os.replace(stage.content / made[chosen.export].files[0], file)
    return Pass(cpu, wall, made.peak_bytes, written, file)


def two_step(folder: Path, scheme: str, work: Path) -> Pass:
    """llama.cpp's own way: convert_hf_to_gguf.py to a 16-bit file, then llama_model_quantize."""
    file = work / f"two-step-{scheme}.gguf"
    began, used = time.perf_counter(), _cpu()
    middle = work / "two-step-16.gguf"
    llama_oracle.convert(folder, middle, "bf16", pre=tiny_llms.pre_of("llama3"))
    llama_oracle.quantize(middle, file, scheme)
    wall, cpu = time.perf_counter() - began, _cpu() - used
    written = middle.stat().st_size + file.stat().st_size
    middle.unlink()
    return Pass(cpu, wall, 0, written, file)


def _cpu() -> float:
    """CPU seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _on_disk(folder: Path) -> int:
    """Bytes that the files of a folder take on the disk, holes left out."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())
