"""A GGUF file in llama.cpp: logits of windows of tokens, and the speed of reading and of writing text."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...exporters.runtimes.gguf.session import Context, Model

Array = np.ndarray[Any, Any]

WARM_UP = 4
PROMPT = 128
"""Most tokens that are read at a time when that is measured."""
RUNS = 64
SECONDS = 3.0
"""Tokens, or seconds, that a speed is measured for, whichever ends first; never less than three runs."""


class LlamaRunner:
    """One loaded file; see `verification.runners.Runner`. Token ids (1, n) give logits (1, n, vocabulary)."""

    inputs = ("input_ids",)
    outputs = ("logits",)
    free_sequence = True

    def __init__(self, path: Path, threads: int, kv: str = "f16") -> None:
        """Load `path`; raises ConversionFailed with llama.cpp's reason where it does not load."""
        self.model = Model(path)
        self.threads, self.kv = threads, kv
        self._context: Context | None = None
        self._size = (0, 0)
        self._last: Array = np.zeros(0, np.int64)

    @property
    def vocabulary(self) -> int:
        """How many logits a position has."""
        return self.model.vocabulary

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        return self.model.parameters

    def close(self) -> None:
        """Free everything."""
        if self._context is not None:
            self._context.close()
        self.model.close()

    def _fresh(self, tokens: int, rows: int) -> Context:
        """An empty context for windows of `tokens` tokens, with logits for the last `rows` of them."""
        if self._context is None or self._size != (tokens, rows):
            if self._context is not None:
                self._context.close()
            self._context = Context(self.model, tokens=tokens, threads=self.threads, kv=self.kv, outputs=rows)
            self._size = (tokens, rows)
        self._context.clear()
        return self._context

    def logits(self, window: Array, *, first: int = 0, last: int | None = None) -> Array:
        """Logits after each token from position `first` to before `last`: float32 (last - first, vocabulary)."""
        tokens = np.asarray(window).ravel()
        rows = len(tokens) - first
        context = self._fresh(len(tokens), rows)
        context.decode(tokens, rows=rows)
        return context.logits()[: None if last is None else last - first]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Logits of one window."""
        self._last = np.asarray(feeds["input_ids"])
        return {"logits": self.logits(self._last)[None]}

    def invoke(self) -> None:
        """Run the last window once more."""
        self.logits(self._last)

    def speed(self, window: Array) -> Speed:
        """How fast a window is read, and tokens after it are written one by one."""
        return measure(self.model, window, self.threads, self.kv)

    def continued(self, prompt: str, count: int = 64) -> tuple[str, int]:
        """At most `count` tokens after a prompt, each the likeliest; the model's chat template is not applied.

        And how many tokens at the prompt's beginning were left out: as many as the context had no room for.
        """
        room = self.model.context
        count = min(count, room // 2)
        read = self.model.tokenize(prompt, begin=True, special=True)
        # Of a prompt that is too long, the end is what a text goes on from.
        tokens = read[-(room - count) :]
        if not tokens:
            return "", 0
        written: list[bytes] = []
        with Context(
            self.model, tokens=len(tokens) + count, threads=self.threads, kv=self.kv, outputs=1
        ) as context:
            context.decode(tokens)
            for position in range(len(tokens), len(tokens) + count):
                token = int(context.logits()[0].argmax())
                if self.model.ends(token):
                    break
                written.append(self.model.piece(token))
                if position + 1 < len(tokens) + count:
                    context.decode([token], position)
        return b"".join(written).decode("utf-8", "replace"), len(read) - len(tokens)


class Speed:
    """Measured times of one file on this host."""

    def __init__(self, tokens: int, prefill: Sequence[float], decode: Sequence[float]) -> None:
        """`tokens` read in each of `prefill` seconds; one token written in each of `decode` seconds."""
        self.tokens, self._prefill, self._decode = tokens, sorted(prefill), sorted(decode)

    @property
    def prefill(self) -> float:
        """Tokens a second while a text is read: the median of the runs."""
        return self.tokens / statistics.median(self._prefill)

    @property
    def decode(self) -> float:
        """Tokens a second while a text is written: from the median time of a token."""
        return 1 / statistics.median(self._decode)

    @property
    def latency_ms(self) -> dict[str, float]:
        """p50 and p90 of one written token, in milliseconds."""
        nine = self._decode[min(len(self._decode) - 1, int(0.9 * len(self._decode)))]
        return {"p50": statistics.median(self._decode) * 1e3, "p90": nine * 1e3}


def measure(model: Model, window: Array, threads: int, kv: str) -> Speed:
    """Read `window` several times with logits for its last token only, then write token after token."""
    steps = min(WARM_UP + RUNS, model.context // 2)
    tokens = np.asarray(window).ravel()[: min(PROMPT, model.context - steps)]
    with Context(
        model, tokens=len(tokens) + steps, batch=len(tokens), threads=threads, kv=kv, outputs=1
    ) as context:

        def read() -> None:
            context.clear()
            context.decode(tokens)
            context.wait()

        read()
        prefill = _timed(read, 5)
        position = len(tokens)

        def write() -> None:
            nonlocal position
            # Which token is of no weight for the time it takes; the window's own need no choice.
            context.decode([int(tokens[position % len(tokens)])], position)
            context.wait()
            position += 1

        for _ in range(WARM_UP):
            write()
        return Speed(len(tokens), prefill, _timed(write, steps - WARM_UP))


def _timed(call: Callable[[], None], runs: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < runs and (time.perf_counter() < end or len(times) < min(runs, 3)):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def load(path: Path, threads: int) -> LlamaRunner:
    """Load the file at `path` for `threads` threads."""
    return LlamaRunner(path, threads)


def load_language(path: Path, threads: int, kv: str) -> LlamaRunner:
    """The same with keys and values kept in `kv`."""
    return LlamaRunner(path, threads, kv)
