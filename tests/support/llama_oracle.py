"""The oracle: llama.cpp's convert_hf_to_gguf.py, then llama_model_quantize, each in processes of their own.

The converter comes in llama-cpp-python's source distribution only; pip fetches it once into a cache outside the tree.
What it cannot convert: a causal model whose only vocabulary is Unigram. Its converter writes any tokenizer.model as
`llama`, which splits text as BPE does, and finds no pre-tokenizer for a tokenizer.json of that kind; there, compare
tensors, not files.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("oracle_worker.py")
# llama.h, enum llama_ftype.
FTYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12,
    "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30,
    "bf16": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """One run of convert_hf_to_gguf.py; `pre` names the pre-tokenizer, None leaves it to the script's hashes."""

    source: Path
    out: Path
    outtype: str = "bf16"
    pre: str | None = None
    vocab_only: bool = False


@dataclass(frozen=True)
class Quantization:
    """One call of llama_model_quantize; `imatrix` is an imatrix GGUF."""

    source: Path
    out: Path
    scheme: str
    imatrix: Path | None = None
    requantize: bool = False
    threads: int = 2


def cache() -> Path:
    """Where downloads and trained models are kept: MODELPORT_TEST_CACHE, or ~/.cache/modelport-tests."""
    return Path(os.environ.get("MODELPORT_TEST_CACHE") or Path.home() / ".cache" / "modelport-tests")


@functools.cache
def oracle_root() -> Path:
    """The llama.cpp folder of the source distribution that has the installed llama-cpp-python's version."""
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llama-cpp-python is not installed")
    kept = cache() / "oracle" / version
    if not (kept / "convert_hf_to_gguf.py").is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as work:
            archive = _downloaded(version, Path(work))
            _unpack(archive, Path(work, "unpacked"))
            shutil.rmtree(kept, ignore_errors=True)
            Path(work, "unpacked").rename(kept)
    return kept


def _downloaded(version: str, folder: Path) -> Path:
    """The archive, by pip."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--quiet"]
    done = subprocess.run(
        [*pip, f"llama-cpp-python=={version}"], cwd=folder, capture_output=True, text=True, check=False
    )
    found = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    if not found:
        pytest.skip(f"pip could not fetch llama-cpp-python's source distribution: {done.stderr[-300:]}")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    """The converter, its modules and its gguf package, out of vendor/llama.cpp."""
    wanted = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.partition("/vendor/llama.cpp/")[2]
            if member.isfile() and inside.startswith(wanted):
                member.name = inside
                tar.extract(member, folder, filter="data")


def run_conversions(jobs: Iterable[Conversion]) -> None:
    """Convert every folder in one process; RuntimeError with the converter's last words where it fails."""
    _run(str(oracle_root()), [asdict(job) for job in jobs])


def run_quantizations(jobs: Iterable[Quantization]) -> None:
    """Quantize every file in one process; RuntimeError with llama.cpp's last words where it fails."""
    listed = [asdict(job) | {"ftype": FTYPES[job.scheme]} for job in jobs]
    _run(None, listed)


def _run(root: str | None, jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        Path(job["out"]).parent.mkdir(parents=True, exist_ok=True)
    # PYTHONPATH may name a gguf of another version, and nothing may be asked of a network.
    hidden = {"PYTHONPATH", "NO_LOCAL_GGUF"}
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"HF_HUB_OFFLINE": "1"}
    task = json.dumps({"root": root, "jobs": jobs}, default=str)
    done = subprocess.run(
        [sys.executable, str(WORKER)],
        input=task,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        errors="replace",
    )
    if done.returncode:
        raise RuntimeError(f"the oracle failed ({done.returncode}):\n{done.stderr[-3000:]}")


def convert(folder: Path, out: Path, outtype: str = "bf16", pre: str | None = None) -> Path:
    """One folder to a 16- or 32-bit GGUF."""
    run_conversions([Conversion(folder, out, outtype, pre)])
    return out


def quantize(
    source: Path, out: Path, scheme: str, imatrix: Path | None = None, *, requantize: bool = False
) -> Path:
    """One GGUF to a scheme of FTYPES."""
    run_quantizations([Quantization(source, out, scheme, imatrix, requantize)])
    return out


def first_type(folder: Path, scheme: str) -> str:
    """The converter's --outtype for a folder: a float scheme itself, else the type that config.json names."""
    if scheme in ("f32", "f16", "bf16"):
        return scheme
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = config.get("torch_dtype") or config.get("dtype")
    return {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}[stored]


def two_step(
    folder: Path,
    out: Path,
    scheme: str,
    *,
    outtype: str | None = None,
    imatrix: Path | None = None,
    pre: str | None = None,
) -> Path:
    """The folder converted to `outtype` (see first_type), then quantized; the file between is deleted."""
    between = out.with_suffix(".first.gguf")
    convert(folder, between, outtype or first_type(folder, scheme), pre)
    try:
        return quantize(between, out, scheme, imatrix)
    finally:
        between.unlink()
