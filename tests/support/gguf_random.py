"""GGUF models with random weights: shared by the tests of the streaming pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import gguf_files
from modelport.exporters.runtimes.gguf import file
from modelport.exporters.runtimes.gguf.file import Described

KEYS: Mapping[str, Any] = {**gguf_files.LLAMA, "llama.attention.layer_norm_rms_epsilon": 1e-5}
Arrays = dict[str, "np.ndarray[Any, Any]"]


def random_weights(seed: int = 0, layers: int = 2) -> Arrays:
    """float32 weights of a Llama of 256 columns, by GGUF name."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.05, shape).astype(np.float32)
        for name, (_, shape) in gguf_files.tensors("float16", layers).items()
    }


def bfloat16(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits of a float32 array rounded to bfloat16, as uint16."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


STORED: Mapping[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "float32": lambda array: array,
    "float16": lambda array: array.astype(np.float16),
    "bfloat16": bfloat16,
}


def write_gguf(path: Path, arrays: Arrays, kind: str = "float16", keys: Mapping[str, Any] = KEYS) -> Path:
    """A GGUF file of these weights: matrices in `kind`, vectors in float32."""
    kinds = {name: kind if array.ndim > 1 else "float32" for name, array in arrays.items()}
    described = [Described(name, gguf_files.IDS[kinds[name]], array.shape) for name, array in arrays.items()]
    layout = file.lay_out(gguf_files.entries(keys), described, 1)
    with path.open("wb") as stream:
        stream.write(layout.front)
        for name, array in arrays.items():
            stream.seek(layout.begins[name])
            stream.write(STORED[kinds[name]](array).tobytes())
        stream.truncate(layout.total)
    return path
