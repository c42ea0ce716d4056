"""How close the artifact's outputs are to the source's: SQNR, cosine, maximum error, top-1 agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

EMBEDDING_NAMES = ("embed", "hidden", "state", "pool", "feature")
"""Output names that hold no class scores, although they have the shape of some."""


def sqnr_db(reference: Array, actual: Array) -> float:
    """Signal to quantization noise ratio in dB: 10 · log10(Σ reference² / Σ (reference − actual)²).

    Infinite for equal arrays, −inf for a zero reference that is not met, NaN never.
    """
    noise = float(np.sum(np.square(reference.astype(np.float64) - actual.astype(np.float64))))
    signal = float(np.sum(np.square(reference.astype(np.float64))))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def cosine(reference: Array, actual: Array) -> float:
    """Cosine of the angle between the flattened arrays, −1..1; 1 for two zero arrays, 0 for one."""
    a, b = reference.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    scale = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if not math.isfinite(scale):
        return 0.0
    if scale == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(np.dot(a, b)) / scale


def crop(actual: Array, shape: tuple[int, ...]) -> Array:
    """Cut padding off: `actual` of the same rank and at least the size is cut to `shape`, else unchanged."""
    if actual.shape == shape or actual.ndim != len(shape):
        return actual
    return actual[tuple(slice(0, size) for size in shape)]


def holds_classes(name: str, shape: tuple[int, ...]) -> bool:
    """Whether an output of this name and shape (batch, n) holds one score per class."""
    named_otherwise = any(word in name.lower() for word in EMBEDDING_NAMES)
    return len(shape) == 2 and shape[1] > 1 and not named_otherwise


def compare_output(
    name: str, references: Sequence[Array], actuals: Sequence[Array], labels: Array | None = None
) -> dict[str, Any]:
    """Figures of one output over all samples; each array has a batch axis of 1.

    Gives sqnr_db (over all samples together), cosine (mean over samples), cosine_min, max_abs,
    top1_agreement for class scores and, where labels are known, accuracy and source_accuracy (0..1).
    A figure that has no finite value is None. Raises ValueError where the shapes cannot be compared.
    """
    actuals = [crop(actual, reference.shape) for actual, reference in zip(actuals, references, strict=True)]
    for reference, actual in zip(references, actuals, strict=True):
        if reference.shape != actual.shape:
            raise ValueError(
                f"output {name!r}: source gives shape {reference.shape}, artifact {actual.shape}"
            )
    flat_reference = np.concatenate([reference.ravel() for reference in references])
    flat_actual = np.concatenate([actual.ravel() for actual in actuals])
    cosines = [cosine(reference, actual) for reference, actual in zip(references, actuals, strict=True)]
    sqnr = sqnr_db(flat_reference, flat_actual)
    worst = float(np.max(np.abs(flat_reference.astype(np.float64) - flat_actual.astype(np.float64))))
    figures: dict[str, Any] = {
        "sqnr_db": sqnr if math.isfinite(sqnr) else None,
        "exact": sqnr == math.inf,
        "cosine": float(np.mean(cosines)),
        "cosine_min": float(np.min(cosines)),
        "max_abs": worst if math.isfinite(worst) else None,
        "non_finite": int(np.sum(~np.isfinite(flat_actual))),
        "top1_agreement": None,
    }
    if holds_classes(name, references[0].shape):
        source_top = np.array([int(reference.argmax()) for reference in references])
        artifact_top = np.array([int(actual.argmax()) for actual in actuals])
        figures["top1_agreement"] = float(np.mean(source_top == artifact_top))
        if labels is not None:
            figures["accuracy"] = float(np.mean(artifact_top == labels[: len(actuals)]))
            figures["source_accuracy"] = float(np.mean(source_top == labels[: len(references)]))
    return figures
