"""Runs llama.cpp's own converter and quantizer in a process of their own: jobs as JSON on standard input.

Called by llama_oracle.py; nothing here is imported by a test.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from pathlib import Path
from typing import Any

KEPT: list[Any] = []  # what llama.cpp holds pointers into while it quantizes


def convert(root: str, jobs: list[dict[str, Any]]) -> None:
    """Run convert_hf_to_gguf.py's main over every job, told the pre-tokenizer where its table of hashes has none."""
    sys.path.insert(0, root)
    script = importlib.import_module("convert_hf_to_gguf")
    TextModel: Any = importlib.import_module("conversion.base").TextModel

    own = TextModel.get_vocab_base_pre
    for job in jobs:
        pre = job["pre"]
        TextModel.get_vocab_base_pre = own if pre is None else (lambda self, tokenizer, pre=pre: pre)
        sys.argv = [
            "convert_hf_to_gguf.py",
            job["source"],
            "--outfile",
            job["out"],
            "--outtype",
            job["outtype"],
        ]
        sys.argv += ["--vocab-only"] if job["vocab_only"] else []
        script.main()


def quantize(jobs: list[dict[str, Any]]) -> None:
    """Call llama_model_quantize for every job."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    for job in jobs:
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = job["ftype"], job["threads"]
        params.allow_requantize = job["requantize"]
        if job["imatrix"]:
            params.imatrix = _matrix(llama_cpp, Path(job["imatrix"]))
        code = llama_cpp.llama_model_quantize(
            job["source"].encode(), job["out"].encode(), ctypes.byref(params)
        )
        if code:
            sys.exit(f"llama_model_quantize returned {code} for {job['source']} -> {job['out']}")


def _matrix(llama_cpp: Any, path: Path) -> Any:
    """The array of llama_model_imatrix_data out of an imatrix GGUF: mean squared activations."""
    import gguf
    import numpy as np

    tensors = {t.name: np.array(t.data, np.float32) for t in gguf.GGUFReader(path).tensors}
    names = sorted(name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2"))
    entries = (llama_cpp.llama_model_imatrix_data * (len(names) + 1))()
    for entry, name in zip(entries, names, strict=False):
        counts = tensors[f"{name}.counts"].reshape(-1, 1)
        sums = tensors[f"{name}.in_sum2"].reshape(len(counts), -1)
        means = np.where(counts > 0, sums / np.maximum(counts, np.float32(1)), np.float32(1)).astype(
            np.float32
        )
        KEPT.append(means)
        entry.name, entry.size = name.encode(), means.size
        entry.data = means.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    KEPT.append(entries)
    return entries


if __name__ == "__main__":
    task = json.load(sys.stdin)
    if task["root"] is not None:
        convert(task["root"], task["jobs"])
    else:
        quantize(task["jobs"])
