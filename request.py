"""What the user asks for: the one value that the command line and the Python API hand to the pipeline."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from .targets.errors import UsageError

LAYOUTS = ("nchw", "nhwc")
VIA = ("f16",)
COMPUTE_UNITS = ("all", "cpuAndNeuralEngine", "cpuAndGPU", "cpuOnly")
KV_TYPES = ("f16", "q8_0", "q4_0")
"""What llama.cpp keeps keys and values in (`--cache-type-k`), of those that it has fast kernels for."""


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
    tensor_parallel: int | None = None
    """GPUs that a language model is split over; None: one."""
    context: int | None = None
    """Tokens of context (prompt and answer) that a language model shall hold."""
    sequence: int | None = None
    """Tokens per sample of a token model whose artifact has a fixed length."""
    layout: str | None = None
    """Axis order of image inputs at the artifact's boundary; None keeps the source's."""
    observer: str | None = None
    opset: int | None = None
    signature: str | None = None
    imatrix: Path | None = None
    """An importance matrix that exists already, instead of collecting one on the calibration text."""
    via: str | None = None
    """"f16": round 16-bit weights to float16 before they are quantized, as the two-step route does."""
    two_step: bool = False
    """Write the 16-bit file first, and let llama.cpp quantize it."""
    requantize: bool = False
    """Quantize weights again that are low-bit already."""
    prompt: str | None = None
    """A text that the finished language model continues."""
    chat_template: bool = False
    """Read "messages" of a .jsonl of calibration text, and write them out in the model's own chat format."""
    resume: Path | None = None
    """A folder that finished layers are kept in, so that a run that was killed goes on from there."""
    kv_type: str | None = None
    """Dtype of the KV cache that the model is judged with."""
    deployment_target: str | None = None
    """The oldest iOS that a Core ML package shall run on, as in "iOS17"."""
    compute_units: str | None = None
    """Where Core ML may run a package: one of `COMPUTE_UNITS`."""
    shapes: str | None = None
    """Free shapes of inputs, which each runtime reads its own way; inputs apart by ";".

    Core ML: "ids=1x64|1x128" lists them, "ids=1x1..512" gives a range. TensorRT: "ids=1x1..1x128..8x512", the
    least, the one that it is tuned for, and the greatest.
    """
    workspace: int | None = None
    """Bytes of scratch memory that a TensorRT layer may take."""
    timing_cache: str | None = None
    """File in which TensorRT's measured kernels are kept between builds."""
    version_compatible: bool = False
    """Build a TensorRT engine that later versions load too."""
    hardware_compatible: str | None = None
    """Build a TensorRT engine for further GPUs: "same-compute-capability" or "ampere-plus"."""
    builder_level: int | None = None
    """How long TensorRT searches for fast kernels, 0 to 5."""
    image_input: str | None = None
    """Take the image input as an image: "scale=S,bias=R:G:B", or "" for pixel values as they are."""
    labels: Path | None = None
    """A text file of class labels, one a line."""
    metadata: tuple[str, ...] = ()
    """author=, description=, licence= and version= of a Core ML package."""
    fit: bool = False
    """Look for what makes a model fit a microcontroller: another order of operators, and what else would help."""
    offline_plan: bool = False
    """Write the arena's plan into a microcontroller's model, so that the device plans nothing."""
    mesh: str | None = None
    """Devices that a StableHLO program is split over, as in "data=4,model=2"."""
    samples: int | None = None
    """How many samples of the data to use at the most, held-out ones included."""
    held_out: int | None = None
    seed: int = 0
    threads: int | None = None
    """Threads to judge and measure this host with; by default 1, and every CPU for a language model."""
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
            "tensor_parallel",
            "context",
            "sequence",
            "samples",
            "threads",
            "memory_limit",
            "workspace",
            "timeout",
            "held_out",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{value} is not above zero", where=f"--{name.replace('_', '-')}")
        for option, known in (("via", VIA), ("kv_type", KV_TYPES), ("compute_units", COMPUTE_UNITS)):
            value = getattr(self, option)
            if value is not None and value not in known:
                raise UsageError(
                    f"{value!r} is not known",
                    where=f"--{option.replace('_', '-')}",
                    mend=f"Known: {', '.join(known)}",
                )
        for option in ("imatrix", "labels"):
            path = getattr(self, option)
            if path is not None and not path.is_file():
                raise UsageError("there is no such file", where=f"--{option} {path}")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise UsageError(
                f"{self.layout!r} is no layout", where="--layout", mend=f"Known: {', '.join(LAYOUTS)}"
            )


def parse_size(text: str, option: str = "--memory-limit") -> int:
    """Bytes of "512M", "8G", "1.5GiB" or a plain number; raises UsageError for anything else.

    K, M, G and T are powers of 1024, with or without "B" or "iB" behind.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"{text!r} is not a size", where=option, mend="Write it like 8G or 512M")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
