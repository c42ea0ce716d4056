"""A .tflite file in LiteRT's reference kernels, whose integer arithmetic TensorFlow Lite Micro shares bit for bit."""

from __future__ import annotations

from pathlib import Path

from .tflite import TfliteRunner
from .tflite import load as load_tflite

PROOF = (
    "Run with LiteRT's reference kernels (no XNNPACK), fully connected layers rounded as TensorFlow Lite Micro rounds: "
    "this shows what a board computes, and nothing of its speed"
)


def load(path: Path, threads: int) -> TfliteRunner:
    """Load `path` with the reference kernels; ConversionFailed for a file that LiteRT does not take."""
    runner = load_tflite(path, threads, reference=True)
    runner.proof = PROOF
    return runner
