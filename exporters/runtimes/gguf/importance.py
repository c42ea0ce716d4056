"""The importance matrix: squared activations of every matrix's inputs, collected while llama.cpp runs text."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ....targets.errors import ConversionFailed
from ...job import Progress
from . import library
from .imatrix import Sums, read, write
from .session import Context, Model

__all__ = ["Collected", "collect", "read", "write"]

Array = np.ndarray[Any, Any]

STAGE = "collect the importance matrix"
FEWEST_ROWS = 16
"""llama-imatrix leaves out products of fewer rows."""
FLOAT32 = 0
OPERATIONS = ("MUL_MAT", "MUL_MAT_ID")


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, as far as it is read here."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


@dataclass(frozen=True)
class Collected:
    """What was written."""

    entries: int
    windows: int
    unseen: tuple[str, ...]
    """Stacks of experts of which the text used only some; the others count evenly."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the report."""
        if not self.unseen:
            return ()
        return (
            f"The calibration text did not reach every expert of {len(self.unseen)} tensors ({self.unseen[0]} ...): "
            "those are quantized without importance. More text helps.",
        )


def collect(
    model: Path,
    windows: Array,
    out: Path,
    *,
    threads: int,
    progress: Progress,
    datasets: Sequence[str] = (),
    process_output: bool = False,
) -> Collected:
    """Run `windows` (windows, tokens) through the GGUF file `model` and write what was seen to `out`.

    What is summed is what llama-imatrix sums: for each product with a weight "blk.*", the squares of its input
    rows by column, and for experts only of rows that were sent to them; "output.weight" as well with
    `process_output`. Every token asks for logits, or the last layer would see one row of each window.

    Raises ConversionFailed where the file does not load, or where activations are not finite.
    """
    sums = _Collector(process_output)
    callback = library.llama().ggml_backend_sched_eval_callback(sums.see)
    count, size = windows.shape
    with (
        Model(model) as loaded,
        Context(loaded, tokens=size, threads=threads, callback=callback) as context,
    ):
        for index in range(count):
            progress(STAGE, index, count)
            context.clear()
            context.decode(windows[index], rows=size)
            context.wait()
            sums.raise_error(model.name)
    if not sums.values:
        raise ConversionFailed("no product with a weight was seen while the text ran", where=model.name)
    data = sums.collected()
    write(out, data, datasets, count, size)
    progress(STAGE, count, count)
    unseen = tuple(sorted(name for name, entry in data.items() if not entry.counts.all()))
    return Collected(len(data), count, unseen)


@dataclass
class _Collector:
    """Sums in float64 by weight; `see` is what llama.cpp calls for each node of its graph."""

    process_output: bool
    values: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, Array] = field(default_factory=dict)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        ggml = library.ggml()
        ggml.ggml_op_name.restype, ggml.ggml_op_name.argtypes = ctypes.c_char_p, [ctypes.c_int]
        # Ids of operations move between versions; their names do not.
        names = {ggml.ggml_op_name(number).decode(): number for number in range(64)}
        self._plain, self._experts = (names[name] for name in OPERATIONS)

    def see(self, address: int, asking: bool, _: Any) -> bool:
        """Whether the node's inputs are wanted (`asking`), or take them; False ends the computation."""
        try:
            node = _Tensor.from_address(address)
            if asking:
                return self.error is None and self._wanted(node)
            if node.op == self._experts:
                self._take_experts(node)
            else:
                self._take(node)
        except BaseException as error:  # nothing may be raised through C
            self.error = error
            return False
        return True

    def _wanted(self, node: _Tensor) -> bool:
        if node.op not in (self._plain, self._experts):
            return False
        given = node.src[1].contents
        if given.type != FLOAT32 or (node.op == self._plain and given.ne[1] < FEWEST_ROWS):
            return False
        name = _name(node.src[0].contents)
        return name.startswith("blk.") or (self.process_output and name == "output.weight")

    def _entry(self, name: str, matrices: int, width: int, counts: int) -> Array:
        if name not in self.values:
            self.values[name] = np.zeros((matrices, width))
            self.counts[name] = np.zeros(counts)
        return self.values[name]

    def _take(self, node: _Tensor) -> None:
        weight, given = node.src[0].contents, _array(node.src[1].contents, np.float32)
        stacked, outer = weight.ne[2], weight.ne[3]
        name = _name(weight)
        total = self._entry(name, stacked * outer, given.shape[3], 1)
        for last in range(given.shape[0]):
            for third in range(given.shape[1]):
                rows = given[last, third]
                total[(last % outer) * stacked + third % stacked] += np.einsum("ij,ij->j", rows, rows)
        self.counts[name] += given.shape[0] * given.shape[1] * given.shape[2] // (stacked * outer)
        self._check(name, total)

    def _take_experts(self, node: _Tensor) -> None:
        """Rows (tokens, experts used or 1, width), each for the expert that `ids` (tokens, experts used) names."""
        weight = node.src[0].contents
        rows = _array(node.src[1].contents, np.float32)[0]
        ids = _array(node.src[2].contents, np.int32)[0, 0]
        name, experts = _name(weight), int(weight.ne[2])
        total = self._entry(name, experts, rows.shape[2], experts)
        for place in range(ids.shape[1]):
            chosen, given = ids[:, place], rows[:, place % rows.shape[1]]
            for expert in np.unique(chosen):
                taken = given[chosen == expert]
                total[expert] += np.einsum("ij,ij->j", taken, taken)
            self.counts[name] += np.bincount(chosen, minlength=experts)
        self._check(name, total)

    def _check(self, name: str, total: Array) -> None:
        if not np.isfinite(total).all():
            raise ConversionFailed("the inputs of this weight become NaN or infinite on the text", where=name)

    def raise_error(self, file: str) -> None:
        """Raise what went wrong in `see`."""
        if isinstance(self.error, ConversionFailed):
            raise ConversionFailed(self.error.fact, where=f"{file}: {self.error.where}")
        if self.error is not None:
            raise self.error

    def collected(self) -> Mapping[str, Sums]:
        """The sums as the file holds them."""
        return {
            name: Sums(values.astype(np.float32), self.counts[name].astype(np.float32))
            for name, values in self.values.items()
        }


def _name(tensor: _Tensor) -> str:
    """The weight's name, without the prefix and suffix of a copy ("CUDA0#blk.0.attn_k.weight#0")."""
    name = bytes(tensor.name).decode("utf-8", "replace")
    return name.split("#")[1] if "#" in name else name


def _array(tensor: _Tensor, dtype: Any) -> Array:
    """The values of a tensor in this process's memory, no copy: numpy order, four axes."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    extent = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 4
    raw = (ctypes.c_char * extent).from_address(tensor.data)
    return np.ndarray(shape, dtype, raw, strides=strides)
