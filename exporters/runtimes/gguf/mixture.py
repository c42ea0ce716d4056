"""Which ggml type each tensor gets in a scheme: llama.cpp's own decision, asked for by a dry run of its quantizer."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....sources.gguf import header
from ....targets.errors import ConversionFailed, Unsupported
from . import library
from .file import Described, lay_out

if TYPE_CHECKING:
    import numpy as np

    Importance = Mapping[str, np.ndarray[Any, Any]]

FILE_TYPES: Mapping[str, str] = {
    "f32": "LLAMA_FTYPE_ALL_F32",
    **{
        name: f"LLAMA_FTYPE_MOSTLY_{name.upper()}"
        for name in (
            "f16",
            "bf16",
            "q8_0",
            "q6_k",
            "q5_k_m",
            "q5_k_s",
            "q4_k_m",
            "q4_k_s",
            "q4_0",
            "q3_k_m",
            "q2_k",
        )
    },
}
"""Schemes of the card, with the names of llama.cpp's file types."""

F32, F16, BF16 = 0, 1, 30
FLOATS = (F32, F16, BF16)
"""ggml's ids of the types that are no quantization."""

_DECISION = re.compile(r"\[ *\d+/ *\d+\] (\S+) +- \[[^\]]*\], type = +(\S+), size =[^\n(]*(?:\((\S+)\))?\n")


def file_type(scheme: str) -> int:
    """llama.cpp's id of a scheme. Raises Unsupported for a name that is none."""
    if scheme not in FILE_TYPES:
        raise Unsupported(
            f"no scheme of GGUF is called {scheme!r}", mend=f"Choose among {', '.join(FILE_TYPES)}"
        )
    number: int = getattr(library.llama(), FILE_TYPES[scheme])
    return number


def decide(
    entries: Iterable[header.Entry],
    tensors: Sequence[Described],
    scheme: str,
    work: Path,
    *,
    importance: Importance | None = None,
) -> tuple[int, ...]:
    """The ggml type that llama.cpp gives each tensor in this scheme, in the order of `tensors`.

    `tensors` have the types of the file that would be quantized. Its header is written to a sparse file in
    `work`, which llama_model_quantize goes through without reading or writing tensor data. `importance`
    matters to some schemes by being there. Raises ConversionFailed with llama.cpp's own words.
    """
    sparse = work / "decision.gguf"
    layout = lay_out(_without_vocabulary(entries), tensors, file_type(scheme))
    try:
        with sparse.open("wb") as stream:
            stream.write(layout.front)
            stream.truncate(layout.total)
        text = quantize(sparse, sparse.with_suffix(".none"), scheme, importance=importance, dry_run=True)
    finally:
        sparse.unlink(missing_ok=True)
    found = {match[1]: (match[2], match[3]) for match in _DECISION.finditer(text)}
    ids = _type_ids()
    decided = []
    for tensor in tensors:
        before, after = found.get(tensor.name, ("", None))
        if ids.get(before) != tensor.type or (after or before) not in ids:
            raise ConversionFailed(
                f"llama.cpp's log says {found.get(tensor.name)} of the type of {tensor.name}, which cannot be read",
                mend="Use --two-step, which leaves the whole work to llama.cpp",
            )
        decided.append(ids[after or before])
    return tuple(decided)


def _type_ids() -> dict[str, int]:
    """ggml's ids by the names that it prints itself ("f16", "q4_K")."""
    ggml = library.ggml()
    ggml.ggml_type_name.restype = ctypes.c_char_p
    return {ggml.ggml_type_name(number).decode(): number for number in header.TYPES}


def quantize(
    source: Path,
    target: Path,
    scheme: str,
    *,
    importance: Importance | None = None,
    dry_run: bool = False,
    threads: int = 1,
) -> str:
    """Run llama_model_quantize from file to file; gives its log. Raises ConversionFailed with its last words."""
    llama = library.llama()
    params = llama.llama_model_quantize_default_params()
    params.ftype = file_type(scheme)
    params.nthread = threads
    params.dry_run = dry_run
    params.allow_requantize = True  # what may be requantized was decided before
    matrix = _matrix(importance) if importance is not None else None
    if matrix is not None:
        params.imatrix = ctypes.cast(matrix, ctypes.POINTER(llama.llama_model_imatrix_data))
    pieces: list[str] = []
    with library.log(lambda level, text: pieces.append(text)):
        failed = llama.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    text = "".join(pieces)
    if failed:
        words = [
            line.strip() for line in text.splitlines() if "failed to quantize" in line or "error" in line
        ]
        raise ConversionFailed(
            f"llama.cpp refuses the model: {(words or ['it gives no reason'])[-1][:300]}", where=source.name
        )
    return text


def _matrix(importance: Importance) -> Any:
    """The importance matrix as llama.cpp's C structures, ended by an empty one."""
    llama = library.llama()
    matrix = (llama.llama_model_imatrix_data * (len(importance) + 1))()
    for item, (name, values) in zip(matrix, importance.items(), strict=False):
        item.name = name.encode()
        item.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        item.size = values.size
    return matrix


def _without_vocabulary(entries: Iterable[header.Entry]) -> list[header.Entry]:
    """The keys without the tokens themselves: llama.cpp only counts them here, and reading them costs.

    An entry's raw bytes are the value type (uint32) and, for an array (9), element type and count.
    """
    kept = []
    for entry in entries:
        is_array = entry.raw[:4] == (9).to_bytes(4, "little")
        if not entry.key.startswith("tokenizer.") or not is_array:
            kept.append(entry)
        elif entry.key == "tokenizer.ggml.tokens":
            count = int.from_bytes(entry.raw[8:16], "little")
            kept.append(header.Entry(entry.key, entry.raw[:4] + bytes(4) + entry.raw[8:16] + bytes(count)))
    return kept
