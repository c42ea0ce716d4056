"""What a written file really holds: weights and multiply-accumulates by dtype, read from the file itself."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Audit:
    """The count. A weight is a constant tensor that a computing operator reads (biases included)."""

    weight_bytes: Mapping[str, int]
    """Bytes of weights by stored dtype."""
    macs: Mapping[str, int]
    """Multiply-accumulates of one inference at batch 1 by the dtype that the kernel computes in."""
    operators: Mapping[str, int]
    """Operators by kind, as the file names them."""
    float_ops: tuple[str, ...]
    """Operators with weights or multiply-accumulates left in float, as in "CONV_2D 'features/0'"."""
    file_bytes: int
    apart: Mapping[str, int] = field(default_factory=dict)
    """What of `weight_bytes` the format's schemes never touch, as a language model's tables beside linear layers."""
    broken: tuple[str, ...] = ()
    """Rules of the target's runtime that the file breaks, each naming the node: such a file is refused."""

    def weight_share(self, dtypes: Iterable[str]) -> float | None:
        """Share (0..1) of the weight bytes that these dtypes hold; None for a file without weights."""
        return _share(self.weight_bytes, dtypes)

    def mac_share(self, dtypes: Iterable[str]) -> float | None:
        """Share (0..1) of the multiply-accumulates computed in these dtypes; None when there are none."""
        return _share(self.macs, dtypes)


def _share(amounts: Mapping[str, int], dtypes: Iterable[str]) -> float | None:
    total = sum(amounts.values())
    return sum(amounts.get(dtype, 0) for dtype in dtypes) / total if total else None


def audit(path: Path, file_format: str) -> Audit | None:
    """Open `path` again and count it; None when no auditor knows the format.

    One module of this folder a format (`tflite.py`, `onnx.py`), each with `count(path) -> Audit`.
    """
    name = f"{__name__}.{file_format.replace('-', '_')}"
    if importlib.util.find_spec(name) is None:
        return None
    counted: Audit = importlib.import_module(name).count(path)
    return counted
