"""What a GGUF file shall hold: each tensor by name and shape, and how it follows from the checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Transform = Literal["keep", "permute", "transpose", "plus one"]
"""How a tensor's rows follow from the checkpoint's:

"keep": as they are. "permute": the rows of each head reordered from the halves that transformers rotates to
the pairs that llama.cpp rotates: (heads, 2, n / 2, width) -> (heads, n / 2, 2, width). "transpose": GPT-2's
matrices, stored (in, out). "plus one": 1 is added to each value, for norms that are stored around zero.
"""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file to be written."""

    name: str
    """As llama.cpp names it: "blk.0.attn_q.weight"."""
    shape: tuple[int, ...]
    """As numpy counts, rows first and the contiguous axis last: what the file holds, after the transform."""
    parts: tuple[str, ...] = ()
    """Names in the checkpoint, joined along the first axis where there are several; none for `values`."""
    transform: Transform = "keep"
    heads: int = 0
    """Heads that "permute" works within."""
    values: tuple[float, ...] = ()
    """The numbers themselves, where they are computed from config.json (rope factors)."""
    float32: bool = False
    """Whether it is 32-bit float in a file of any type (norms, biases: whatever has one axis, and more)."""

    @property
    def elements(self) -> int:
        """Number of values."""
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def width(self) -> int:
        """Values in a row: the contiguous axis, along which blocks are quantized."""
        return self.shape[-1]


def save(tensors: Iterable[Tensor], path: Path) -> None:
    """Write tensors as JSON, to be read by the next worker."""
    path.write_text(json.dumps([dataclasses.asdict(tensor) for tensor in tensors]), encoding="utf-8")


def load(path: Path) -> tuple[Tensor, ...]:
    """The tensors that `save` wrote."""
    tupled = ("shape", "parts", "values")
    return tuple(
        Tensor(**{**raw, **{key: tuple(raw[key]) for key in tupled}})
        for raw in json.loads(path.read_text(encoding="utf-8"))
    )
