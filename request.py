"""What the user asks for: the one value that the command line and the Python API hand to the pipeline."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .targets.errors import UsageError

LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Request:
    """One conversion or check. `None` means "let the target decide"."""

    model: Path
    target: str
    quant: str | None = None
    device: str | None = None
    calibration: str | None = None
    out: Path | None = None
    batch: int = 1
    context: int | None = None
    """Tokens of context (prompt and answer) that a language model shall hold."""
    sequence: int | None = None
    """Tokens per sample of a token model whose artifact has a fixed length."""
    layout: str | None = None
    """Axis order of image inputs at the artifact's boundary; None keeps the source's."""
    observer: str | None = None
    opset: int | None = None
    signature: str | None = None
    samples: int = 320
    """How many samples of the data to use at the most, held-out ones included."""
    held_out: int | None = None
    seed: int = 0
    threads: int = 1
    budget: str | None = None
    memory_limit: int | None = None
    """Bytes that a worker process may hold."""
    timeout: float | None = None
    """Seconds that a worker process may take."""
    overwrite: bool = False
    force: bool = False
    """Convert although the feasibility check says no."""
    keep: bool = False
    """Publish although the fidelity is below the budget."""
    keep_samples: bool = True
    """Put held-out samples and reference outputs into the output folder, for `modelport verify`."""
    command: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Reject values that no step could work with; raises UsageError naming the option."""
        for name in (
            "batch",
            "context",
            "sequence",
            "samples",
            "threads",
            "memory_limit",
            "timeout",
            "held_out",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{value} is not above zero", where=f"--{name.replace('_', '-')}")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise UsageError(
                f"{self.layout!r} is no layout", where="--layout", mend=f"Known: {', '.join(LAYOUTS)}"
            )


def parse_size(text: str) -> int:
    """Bytes of "512M", "8G", "1.5GiB" or a plain number; raises UsageError for anything else.

    K, M, G and T are powers of 1024, with or without "B" or "iB" behind.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"{text!r} is not a size", where="--memory-limit", mend="Write it like 8G or 512M")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
