"""One GGUF file loaded in llama.cpp on the CPU: tokens in, logits out, through the library's own C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np

from ....targets.errors import ConversionFailed, SourceUnreadable
from . import library

Array = np.ndarray[Any, Any]

KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
"""ggml's type ids of what keys and values are kept in."""

MAPPED = 1
"""LLAMA_LOAD_MODE_MMAP of llama.h: the weights' pages stay the kernel's to take back."""
ERROR_LEVEL = 4
LONGEST_TEXT = (1 << 31) - 1


class _Closing:
    """Something of llama.cpp's that is freed at the end of a `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free it."""
        raise NotImplementedError


class Model(_Closing):
    """A loaded file; close it, or use it in a `with`."""

    def __init__(self, path: Path, *, vocab_only: bool = False) -> None:
        """Load `path`, or its tokenizer and metadata alone.

        Raises ConversionFailed with llama.cpp's reason where it does not load.
        """
        self.path = path
        self.llama: ModuleType = library.llama()
        settings = self.llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        settings.load_mode = MAPPED
        settings.vocab_only = vocab_only
        said: list[str] = []
        with library.log(lambda level, text: said.append(text) if level == ERROR_LEVEL else None):
            self.handle = self.llama.llama_model_load_from_file(str(path).encode(), settings)
        if not self.handle:
            raise ConversionFailed(f"the file does not load in llama.cpp: {_reason(said)}", where=path.name)
        self._vocab = self.llama.llama_model_get_vocab(self.handle)

    def close(self) -> None:
        """Free the model; its contexts are closed before it."""
        if self.handle:
            self.llama.llama_model_free(self.handle)
            self.handle = None

    @property
    def vocabulary(self) -> int:
        """Number of token ids: the length of a row of logits."""
        return int(self.llama.llama_vocab_n_tokens(self._vocab))

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return int(self.llama.llama_model_n_params(self.handle))

    @property
    def bos(self) -> int | None:
        """The id that a text begins with; None where the model wants none."""
        if not self.llama.llama_vocab_get_add_bos(self._vocab):
            return None
        found = int(self.llama.llama_vocab_bos(self._vocab))
        return found if found >= 0 else None

    @property
    def context(self) -> int:
        """The most tokens that the model was made for; learned positions end there, and llama.cpp with them."""
        return int(self.llama.llama_model_n_ctx_train(self.handle))

    def metadata(self, key: str) -> str | None:
        """A scalar or string of the header as text; "{arch}" in `key` stands for the architecture's name."""
        if "{arch}" in key:
            key = key.replace("{arch}", self.metadata("general.architecture") or "")
        buffer = ctypes.create_string_buffer(256)
        length = self.llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return None if length < 0 else buffer.value.decode("utf-8", "replace")

    def number(self, key: str) -> int | None:
        """A whole number of the header, or None where there is none under this key."""
        found = self.metadata(key)
        return int(found) if found is not None and found.lstrip("-").isdigit() else None

    def tokenize(self, text: str, *, begin: bool, special: bool) -> list[int]:
        """Token ids; with `begin`, the model's own BOS and the like are added; with `special`, texts like
        "<|user|>" become the tokens that they name."""
        raw = text.encode("utf-8", "surrogatepass")
        room = len(raw) + 16
        if room > LONGEST_TEXT:
            raise SourceUnreadable(f"{len(raw):,} bytes are too many for one text", where=self.path.name)
        ids = (self.llama.llama_token * room)()
        found = self.llama.llama_tokenize(self._vocab, raw, len(raw), ids, room, begin, special)
        if found < 0:  # more tokens than bytes
            ids = (self.llama.llama_token * -found)()
            found = self.llama.llama_tokenize(self._vocab, raw, len(raw), ids, -found, begin, special)
        return list(ids[:found])

    def piece(self, token: int) -> bytes:
        """The bytes of one token; none for control tokens."""
        buffer = ctypes.create_string_buffer(256)
        length = self.llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = self.llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[:length]

    def ends(self, token: int) -> bool:
        """Whether a text ends with this token."""
        return bool(self.llama.llama_vocab_is_eog(self._vocab, token))


class Context(_Closing):
    """Room for one sequence of tokens in a model; close it before the model, or use it in a `with`."""

    def __init__(
        self,
        model: Model,
        *,
        tokens: int,
        threads: int,
        batch: int | None = None,
        outputs: int | None = None,
        kv: str = "f16",
        callback: Any = None,
    ) -> None:
        """Room for `tokens` tokens, `batch` of them at once (default: all), `outputs` rows of logits at once.

        `callback` is a `llama_cpp.ggml_backend_sched_eval_callback`, kept alive here. Raises ConversionFailed
        with llama.cpp's reason, as where there is not enough memory.
        """
        self.llama, self.model, self.batch = model.llama, model, batch or tokens
        settings = self.llama.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = tokens, self.batch, self.batch
        settings.n_seq_max = 1
        # One row a sequence is this version's default; a batch that asks for more is refused.
        settings.n_outputs_max = settings.n_outputs_max_per_seq = outputs or self.batch
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = KV_TYPES[kv]
        settings.offload_kqv = settings.op_offload = False
        if callback is not None:
            settings.cb_eval = callback
        self._callback = callback
        said: list[str] = []
        with library.log(lambda level, text: said.append(text) if level == ERROR_LEVEL else None):
            self._handle = self.llama.llama_init_from_model(model.handle, settings)
        if not self._handle:
            raise ConversionFailed(
                f"llama.cpp gives no context of {tokens} tokens: {_reason(said)}", where=model.path.name
            )
        self._given = self.llama.llama_batch_init(self.batch, 0, 1)
        self._rows = 0

    def close(self) -> None:
        """Free the context."""
        if self._handle:
            self.llama.llama_batch_free(self._given)
            self.llama.llama_free(self._handle)
            self._handle = None

    def clear(self) -> None:
        """Forget every token."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self._handle), True)

    def decode(self, tokens: Sequence[int] | Array, position: int = 0, *, rows: int = 1) -> None:
        """Run tokens (at most a batch) that stand at `position` and after; logits for the last `rows` of them.

        Every row is asked for by name: `llama_batch_get_one` gives the last one only, and the last layer is
        then computed for that one alone.
        """
        given, count = self._given, len(tokens)
        if not 0 < count <= self.batch:
            raise ValueError(f"{count} tokens in a batch of {self.batch}")
        given.n_tokens = count
        np.ctypeslib.as_array(given.token, (count,))[:] = tokens
        np.ctypeslib.as_array(given.pos, (count,))[:] = np.arange(position, position + count)
        np.ctypeslib.as_array(given.n_seq_id, (count,))[:] = 1
        np.ctypeslib.as_array(given.logits, (count,))[:] = np.arange(count) >= count - rows
        for index in range(count):
            given.seq_id[index][0] = 0
        code = self.llama.llama_decode(self._handle, given)
        if code:
            raise ConversionFailed(
                f"llama.cpp stopped with code {code} at token {position}", where=self.model.path.name
            )
        self._rows = rows

    def wait(self) -> None:
        """Return when the last `decode` is computed."""
        self.llama.llama_synchronize(self._handle)

    def logits(self) -> Array:
        """What the last `decode` was asked for: float32 (rows, vocabulary), a copy."""
        found = self.llama.llama_get_logits(self._handle)
        return np.ctypeslib.as_array(found, (self._rows, self.model.vocabulary)).copy()


def _reason(said: Sequence[str]) -> str:
    """What llama.cpp's log of errors tells about the cause, in one line."""
    lines = [" ".join(line.split()) for line in "".join(said).splitlines()]
    # What follows a cause only says once more that loading ended.
    telling = [line for line in lines if line and "failed to load model" not in line]
    causes = [line.partition("error loading model:")[2].strip() or line for line in telling]
    return " / ".join(dict.fromkeys(causes)) or "no reason given"
