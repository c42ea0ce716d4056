"""The one pass: one thread reads slabs of rows, the others quantize them and write each where it belongs."""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...job import Progress
from . import rows
from .convert import Buffer, Converter

if TYPE_CHECKING:
    import numpy as np

    from .lanes import Quantizer

SLAB = 1 << 20
"""Bytes of a slab before or after quantizing, whichever is more: small enough for a core's own cache."""
MEMORY = 32 << 20
"""Bytes of all buffers together, which shrinks the slabs where there are many threads."""

TELL_EVERY = 0.1
"""Seconds between two calls of `progress`."""


@dataclass(frozen=True)
class Order:
    """What becomes of one tensor."""

    bound: rows.Bound
    type: int
    """ggml type that is written."""
    between: int
    """ggml type of the 16-bit file that llama.cpp's own two steps would go through."""
    begin: int
    """First byte of its data in the file."""
    importance: np.ndarray[Any, Any] | None = None
    """float32, one value for each column (of each matrix)."""


@dataclass(frozen=True)
class _Task:
    number: int
    order: Order
    slab: rows.Slab
    begin: int
    """Byte of the file where the slab's data goes."""


def run(
    orders: Sequence[Order],
    out: Path,
    quantizer: Quantizer,
    *,
    threads: int,
    slab: int,
    progress: Progress,
    stage: str,
) -> None:
    """Read, convert and write every tensor into `out`, which exists already and has its final size.

    Memory: 2 `threads` + 2 buffers of `slab` bytes (or of the widest row), whatever the model's size. The
    bytes do not depend on `threads` or `slab`. Raises the error of the first slab that cannot be converted.
    """
    orders = [_flattened(order) for order in orders]
    costs = [_row_cost(order) for order in orders]
    largest = max(
        [slab, *(cost * rows.fewest_rows(order.bound) for order, cost in zip(orders, costs, strict=True))]
    )
    run_ = _Run(out, quantizer, threads, largest)
    total = sum(order.bound.tensor.elements for order in orders)
    try:
        run_.start(_tasks(orders, costs, slab))
        done, told = 0, time.monotonic()
        progress(stage, 0, total)
        for task in run_.finished():
            done += task.slab.rows * task.slab.bound.width
            if done == total or time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                progress(stage, done, total)
    finally:
        run_.stop()


def slab_bytes(threads: int) -> int:
    """Slabs that fit the memory set aside for all buffers."""
    return min(SLAB, MEMORY // (2 * threads + 2))


def _flattened(order: Order) -> Order:
    """A tensor whose values are converted one by one, as rows of one value: it may be cut anywhere."""
    tensor = order.bound.tensor
    plain = order.bound.stored in rows.ITEM_BYTES and order.type in (0, 1, 30)
    if not plain or tensor.transform not in ("keep", "plus one"):
        return order
    flat = dataclasses.replace(tensor, shape=(tensor.elements, 1))
    return dataclasses.replace(order, bound=rows.Bound(flat, order.bound.places))


def _row_cost(order: Order) -> int:
    """Bytes of the largest form that a row takes on its way."""
    width = order.bound.width
    stored = max((rows.row_bytes(place.dtype, width) for place in order.bound.places), default=4 * width)
    return max(stored, rows.target_bytes(order.type, width), 4 * width if Converter.unpacks(order) else 0)


def _tasks(orders: Sequence[Order], costs: Sequence[int], largest: int) -> Iterator[_Task]:
    number = 0
    for order, cost in zip(orders, costs, strict=True):
        written = rows.target_bytes(order.type, order.bound.width)
        weighed = order.importance is not None
        for slab in rows.slabs(order.bound, largest, row_cost=cost, split_matrices=weighed):
            yield _Task(number, order, slab, order.begin + slab.first * written)
            number += 1


class _Run:
    """Threads, queues and buffers of one pass."""

    def __init__(self, out: Path, quantizer: Quantizer, threads: int, size: int) -> None:
        self.free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self.full: queue.SimpleQueue[tuple[_Task, Buffer] | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[_Task | tuple[int, BaseException] | None] = queue.SimpleQueue()
        self.limit = float("inf")
        self.lock = threading.Lock()
        self.files = rows.Files()
        self.descriptor = os.open(out, os.O_WRONLY | os.O_CLOEXEC)
        self.quantizer, self.count, self.size = quantizer, threads, size
        self.threads: list[threading.Thread] = []

    def start(self, tasks: Iterator[_Task]) -> None:
        for _ in range(self.count + 2):
            self.free.put(Buffer(self.size))
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self.count)]
        self.threads = [threading.Thread(target=self._read, args=(tasks,), daemon=True), *workers]
        for thread in self.threads:
            thread.start()

    def finished(self) -> Iterator[_Task]:
        """Each task once it is written; raises the error of the earliest that failed, once all have ended."""
        errors: list[tuple[int, BaseException]] = []
        running = len(self.threads)
        while running:
            result = self.results.get()
            if result is None:
                running -= 1
            elif isinstance(result, _Task):
                yield result
            else:
                errors.append(result)
        if errors:
            raise min(errors, key=lambda error: error[0])[1]

    def stop(self) -> None:
        self._cut(-1)
        for thread in self.threads:
            thread.join()
        self.files.close()
        os.close(self.descriptor)

    def _read(self, tasks: Iterator[_Task]) -> None:
        number = 0
        try:
            for task in tasks:
                buffer = self.free.get()
                number = task.number
                if buffer is None or number > self.limit:
                    break
                self.files.read(task.slab, buffer.view)
                self.full.put((task, buffer))
        except BaseException as error:
            self.results.put((number, error))
        finally:
            for _ in range(self.count):
                self.full.put(None)
            self.results.put(None)

    def _work(self) -> None:
        try:
            converter = Converter(self.quantizer, self.size)
            while (item := self.full.get()) is not None:
                task, buffer = item
                if task.number < self.limit:
                    self._one(converter, task, buffer)
                self.free.put(buffer)
        except BaseException as error:
            self.results.put((-1, error))
            self._cut(-1)
        finally:
            self.results.put(None)

    def _one(self, converter: Converter, task: _Task, buffer: Buffer) -> None:
        try:
            _write(self.descriptor, converter.convert(task.order, task.slab, buffer), task.begin)
            self.results.put(task)
        except BaseException as error:
            self.results.put((task.number, error))
            self._cut(task.number)

    def _cut(self, number: int) -> None:
        """Start no task from this one on; those before it come to their end, and to their own errors."""
        with self.lock:
            self.limit = min(self.limit, number)
        self.free.put(None)


def _write(descriptor: int, data: memoryview, begin: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, begin)
        data, begin = data[written:], begin + written
