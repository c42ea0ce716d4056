"""The libllama and libggml that llama-cpp-python ships, opened by ctypes and checked before they are used."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType
from typing import Any

from ....targets.errors import MissingExtra, Unsupported

OLDEST = (0, 3, 36)
"""First llama-cpp-python whose parameters for quantizing (dry_run, max_buf_size) are known here."""


@functools.cache
def llama() -> ModuleType:
    """llama-cpp-python's low-level module, `llama_cpp.llama_cpp`, checked by version and by its own defaults.

    Raises MissingExtra where it is not installed, and Unsupported where it is another version than this
    code was written for.
    """
    try:
        from llama_cpp import llama_cpp
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "llama-cpp-python is not installed", mend="pip install 'modelport[local-llm]'"
        ) from error
    installed = metadata.version("llama-cpp-python")
    numbers = tuple(int(part) for part in installed.split(".")[:3] if part.isdigit())
    defaults = llama_cpp.llama_model_quantize_default_params()
    # The struct's last fields read right only where the library and its Python declarations agree.
    agreed = defaults.max_buf_size > 1 << 30 and not defaults.dry_run and defaults.quantize_output_tensor
    if numbers < OLDEST or not agreed:
        oldest = ".".join(map(str, OLDEST))
        raise Unsupported(
            f"llama-cpp-python {installed} has another interface than {oldest}, which this was written for",
            mend="Install the version in constraints.txt",
        )
    with log(lambda level, text: None):
        llama_cpp.llama_backend_init()
    module: ModuleType = llama_cpp
    return module


@functools.cache
def ggml() -> ctypes.CDLL:
    """libggml-base (through libllama, which loads it), with the functions used here declared."""
    library = ctypes.CDLL(llama()._lib._name)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,  # type
        ctypes.c_void_p,  # float32 rows
        ctypes.c_void_p,  # target
        ctypes.c_int64,  # first element
        ctypes.c_int64,  # rows
        ctypes.c_int64,  # width
        ctypes.c_void_p,  # importance of each column, or NULL
    ]
    library.ggml_row_size.restype = ctypes.c_size_t
    library.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    for name in (
        "ggml_bf16_to_fp32_row",
        "ggml_fp16_to_fp32_row",
        "ggml_fp32_to_fp16_row",
        "ggml_fp32_to_bf16_row",
    ):
        function = getattr(library, name)
        function.restype = None
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return library


@contextmanager
def log(receive: Callable[[int, str], None]) -> Iterator[None]:
    """Send llama.cpp's log (level, text; a line may come in pieces) to `receive` while the block runs.

    What it logs outside such a block is left out: it would go to the worker's standard error.
    """
    _receivers.append(receive)
    _install()
    try:
        yield
    finally:
        _receivers.remove(receive)


_receivers: list[Callable[[int, str], None]] = []
"""Who hears the log; the last one does."""


@functools.cache
def _install() -> Any:
    """The one callback that llama.cpp holds a pointer to, for as long as the process lives."""
    from llama_cpp import llama_cpp

    def callback(level: int, text: bytes | None, _: Any) -> None:
        if _receivers:
            _receivers[-1](level, (text or b"").decode("utf-8", "replace"))

    kept = llama_cpp.llama_log_callback(callback)
    llama_cpp.llama_log_set(kept, ctypes.c_void_p(0))
    return kept
