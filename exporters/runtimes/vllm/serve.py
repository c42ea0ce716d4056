"""The lines that serve the written checkpoint: vLLM's in serve.sh, and those of other servers that read it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from .schemes import Scheme

SCRIPT = "serve.sh"
_CHECKPOINT = "checkpoint"


def arguments(serving: Mapping[str, Any] | None, context: int | None) -> list[str]:
    """vLLM's options from the feasibility check's plan; without one, the model's own context on one GPU."""
    plan = serving or {}
    length = plan.get("max_model_len") or context
    found = ["--tensor-parallel-size", str(plan.get("tensor_parallel") or 1)]
    if length:
        found += ["--max-model-len", str(length)]
    if plan.get("memory_share"):
        found += ["--gpu-memory-utilization", f"{plan['memory_share']:g}"]
    return found


def script(given: Sequence[str]) -> str:
    """serve.sh: starts vLLM on the folder beside it; what stands behind its name goes to vLLM as well."""
    line = shlex.join(given)
    return (
        "#!/bin/sh\n"
        "# Serves the checkpoint beside this file with vLLM; further options go to vLLM: ./serve.sh --port 8001\n"
        'here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd) || exit\n'
        f'exec vllm serve "$here/{_CHECKPOINT}" {line} "$@"\n'
    )


def lines(scheme: Scheme, given: Sequence[str]) -> list[tuple[str, str]]:
    """(server, line) for the report: TensorRT-LLM reads 16-bit checkpoints only, TGI symmetric schemes."""
    options = dict(zip(given[::2], given[1::2], strict=True))
    gpus, length = options["--tensor-parallel-size"], options.get("--max-model-len")
    tgi = ["text-generation-launcher", "--model-id", _CHECKPOINT, "--num-shard", gpus]
    sglang = ["python", "-m", "sglang.launch_server", "--model-path", _CHECKPOINT, "--tp", gpus]
    tensorrt = ["trtllm-serve", _CHECKPOINT, "--tp_size", gpus]
    if length:
        tgi += ["--max-total-tokens", length]
        sglang += ["--context-length", length]
        tensorrt += ["--max_seq_len", length]
    if scheme.quantizes:
        tgi += ["--quantize", "compressed-tensors"]
    found = [("vLLM", shlex.join(["vllm", "serve", _CHECKPOINT, *given])), ("SGLang", shlex.join(sglang))]
    if scheme.symmetric:
        found.append(("TGI", shlex.join(tgi)))
    if not scheme.quantizes:
        found.append(("TensorRT-LLM", shlex.join(tensorrt)))
    return found
