"""The worker's environment: offline, quiet, the same every time, with every cache in the work folder."""

from __future__ import annotations

import os
from pathlib import Path

from .job import Job


def environment(job: Job, work: Path) -> dict[str, str]:
    """Our own environment with what a worker must not have or must have changed, as `subprocess` takes it.

    `job.options["gpu"]` leaves the graphics cards visible. Creates the folders that it names.
    """
    temporary, cache = work / "tmp", work / "cache"
    for folder in (temporary, cache):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fixed = {
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR", "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1",
        "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(cache), "HF_HOME": str(cache / "huggingface"),
        "TORCH_HOME": str(cache / "torch"), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "KERAS_HOME": str(cache / "keras"), "MPLCONFIGDIR": str(cache / "matplotlib"),
        "NUMBA_CACHE_DIR": str(cache / "numba"), "TRITON_CACHE_DIR": str(cache / "triton"),
    }  # fmt: skip
    if not job.options.get("gpu"):
        fixed["CUDA_VISIBLE_DEVICES"] = "-1"
    return {**os.environ, **fixed}
