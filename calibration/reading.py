"""The values that readers of data take and give: what the model wants, and one sample at a time."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..targets.errors import Unsupported
from ..targets.facts import IoFact

if TYPE_CHECKING:
    import numpy as np

    from .doctor import Finding
    from .preprocess import Preprocessing

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Wanted:
    """What a reader needs to know about the model and about the user's wishes."""

    inputs: tuple[IoFact, ...]
    model_dir: Path | None
    """The folder with the model's own tokenizer, preprocessing and config.json; None when it has none."""
    root: Path
    """Where relative paths and the user's `module:function` are looked for."""
    seed: int
    limit: int
    """Most samples to read."""
    sequence: int | None
    """Tokens per sample that the user asked for."""

    def input(self, name: str) -> IoFact:
        """The input called `name`."""
        return next(io for io in self.inputs if io.name == name)

    @property
    def names(self) -> str:
        """The inputs' names for a sentence."""
        return ", ".join(io.name for io in self.inputs)


@dataclass(frozen=True)
class Sample:
    """One sample: an array per input, without the batch axis, in the data's own dtype."""

    arrays: Mapping[str, Array]
    where: str
    """File, line or index, for error messages."""
    label: int | None = None
    length: int | None = None
    """Unpadded tokens, where the sample was padded along the sequence axis."""


@dataclass(frozen=True)
class Reading:
    """What a reader found; `samples` are produced one by one, so that memory stays bounded.

    Close `samples` when done: it holds files open, or the user's module importable.
    """

    kind: str
    samples: Generator[Sample, None, None]
    preprocessing: Preprocessing | None = None
    """What was applied to images."""
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = field(default=())
    random: bool = False


def choose(total: int, limit: int, seed: int) -> list[int]:
    """Indices of at most `limit` of `total` samples, ascending, drawn with `seed`."""
    if total <= limit:
        return list(range(total))
    return sorted(random.Random(seed).sample(range(total), limit))


def is_tokens(io: IoFact) -> bool:
    """Whether the input holds one integer per token: integers of shape (batch, sequence)."""
    return io.shape is not None and len(io.shape) == 2 and io.dtype in ("int64", "int32")


def settle(inputs: tuple[IoFact, ...], sequence: int | None) -> tuple[IoFact, ...]:
    """The inputs with `sequence` written into free sequence axes.

    Raises Unsupported for an input whose first axis is not a batch axis of 1: samples are fed one by one.
    """
    settled = []
    for io in inputs:
        if io.shape is not None and (not io.shape or (isinstance(io.shape[0], int) and io.shape[0] != 1)):
            raise Unsupported(
                f"the first axis of shape {io.shape} is not a batch axis of 1 or of free size",
                where=f"input {io.name}",
                mend="Export the model with batch 1 or with a free batch axis",
            )
        if sequence is not None and io.shape is not None:
            shape = tuple(
                sequence if axis and _is_sequence(io, axis, size) else size
                for axis, size in enumerate(io.shape)
            )
            io = replace(io, shape=shape)
        settled.append(io)
    return tuple(settled)


def _is_sequence(io: IoFact, axis: int, size: int | str | None) -> bool:
    if isinstance(size, int):
        return False
    return is_tokens(io) or (axis == 1 and size is not None and "seq" in size.lower())


def unpadded(arrays: Mapping[str, Array], inputs: tuple[IoFact, ...]) -> int | None:
    """Tokens before the padding of one sample, by its mask; None unless ones come first and zeros after.

    Only for models whose inputs are all tokens: cutting the sequence axis then cuts every input alike.
    """
    mask = next((io for io in inputs if "mask" in io.name.lower()), None)
    if mask is None or not all(is_tokens(io) or io.name == mask.name for io in inputs):
        return None
    values = arrays[mask.name]
    if values.ndim != 1 or any(array.shape != values.shape for array in arrays.values()):
        return None
    length = int(values.sum())
    return length if length > 0 and bool((values[:length] == 1).all()) else None
