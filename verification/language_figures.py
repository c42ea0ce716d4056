"""Figures of a language model on windows of text: perplexity, KL divergence, cosine and agreement of logits."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..targets.errors import SourceUnreadable

Array = np.ndarray[Any, Any]

ROW_BYTES = 128 << 20
"""Most bytes of log-probabilities (float16) that a comparison holds on to."""
WORK = 1e13
"""Most floating-point operations that one model is run for: some minutes on two cores."""
BLOCK = 1 << 22
"""Elements worked on at a time, so that temporary arrays stay small beside the model."""


def first_position(window: int) -> int:
    """Where evaluation begins: half of the window is context, as in llama.cpp's own perplexity tool."""
    return window // 2


def windows_to_run(count: int, window: int, vocabulary: int, parameters: int) -> int:
    """How many of `count` windows are evaluated: as many as `ROW_BYTES` and `WORK` allow, and at least one.

    One window costs 2 · parameters · window operations, and holds half a window of rows.
    """
    rows = window - 1 - first_position(window)
    by_bytes = ROW_BYTES // (2 * vocabulary * rows)
    by_work = int(WORK / (2.0 * parameters * window))
    return max(1, min(count, by_bytes, by_work))


def log_probabilities(logits: Array) -> Array:
    """log softmax of each row: float32 (rows, vocabulary)."""
    found = np.empty(logits.shape, np.float32)
    step = max(1, BLOCK // logits.shape[1])
    for begin in range(0, len(logits), step):
        part = logits[begin : begin + step].astype(np.float32)
        part -= part.max(axis=1, keepdims=True)
        total = np.exp(part).sum(axis=1, keepdims=True, dtype=np.float64)
        found[begin : begin + step] = part - np.log(total).astype(np.float32)
    return found


def targets(rows: Array, window: Array) -> Array:
    """The log-probability that each evaluated row gives the token that came: float32 (rows,)."""
    following = np.asarray(window).ravel()[first_position(np.size(window)) + 1 :]
    return np.asarray(rows[np.arange(len(rows)), following], np.float32)


def perplexity(found: Array) -> dict[str, float | None]:
    """exp of the mean negative log-probability, and its standard error as llama.cpp gives it:
    perplexity · sqrt(variance / (n − 1))."""
    losses = -found.astype(np.float64)
    value = math.exp(min(float(losses.mean()), 700.0)) if np.isfinite(losses).all() else math.inf
    if not math.isfinite(value):
        return {"value": None, "stderr": None}
    error = value * math.sqrt(float(losses.var()) / (len(losses) - 1)) if len(losses) > 1 else None
    return {"value": value, "stderr": error}


class Recorder:
    """Writes a model's rows window by window into an .npz: "<window>|logprobs" and "<window>|targets"."""

    def __init__(self, path: Path, against: str) -> None:
        """`against` names what was run, for the report."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._count = 0
        self._put("0|against", np.array(against))

    def add(self, rows: Array, window: Array) -> None:
        """The log-probabilities of one window: kept as float16, and those of the tokens that came as float32."""
        self._put(f"{self._count}|logprobs", rows.astype(np.float16))
        self._put(f"{self._count}|targets", targets(rows, window))
        self._count += 1

    def _put(self, name: str, array: Array) -> None:
        # The default date of ZipInfo, so that the same figures give the same bytes.
        with self._file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, array, allow_pickle=False)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Recorded:
    """Reads what `Recorder` wrote, one window at a time."""

    def __init__(self, path: Path) -> None:
        """Raises SourceUnreadable for a file of another form."""
        self.path = path
        try:
            self._file = np.load(path, allow_pickle=False)
            self.against = str(self._file["0|against"])
            self.count = sum(name.endswith("|logprobs") for name in self._file.files)
            self.targets = np.concatenate([self._file[f"{index}|targets"] for index in range(self.count)])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise SourceUnreadable(
                f"not log-probabilities that were kept: {error}", where=path.name
            ) from error

    def rows(self, index: int) -> Array:
        """float16 (positions, vocabulary) of one window."""
        found: Array = self._file[f"{index}|logprobs"]
        return found

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Comparison:
    """Adds up how far one model's rows lie from a reference's.

    Logits mean the same when a constant is added to a row, so cosine, SQNR and the largest difference are taken
    of rows less their mean; both sides rounded to float16, which makes equal ones exactly equal.
    """

    def __init__(self) -> None:
        self._divergence: list[Array] = []
        self._cosines: list[Array] = []
        self._agreed: list[Array] = []
        self._noise = self._signal = self._worst = 0.0
        self._non_finite = 0
        self._equal = True

    def add(self, reference: Array, rows: Array) -> None:
        """One window: float16 log-probabilities of the reference, float32 ones of the other model.

        Where the vocabularies differ in length (padding), the ids that both have are compared.
        """
        width = min(reference.shape[1], rows.shape[1])
        step = max(1, BLOCK // width)
        for begin in range(0, len(reference), step):
            self._block(reference[begin : begin + step, :width], rows[begin : begin + step, :width])

    def _block(self, reference: Array, rows: Array) -> None:
        self._non_finite += int(np.sum(~np.isfinite(rows)))
        # Normalised again: a rounded row is then a distribution itself, and rounding moves KL in second order only.
        expected = log_probabilities(reference)
        found = log_probabilities(rows)
        probability = np.exp(expected)
        with np.errstate(invalid="ignore"):
            terms = np.where(probability > 0, probability * (expected - found), 0)
            self._divergence.append(terms.sum(axis=1, dtype=np.float64))
            self._agreed.append(reference.argmax(axis=1) == rows.astype(np.float16).argmax(axis=1))
            rounded = rows.astype(np.float16)
            self._equal = self._equal and bool(np.array_equal(rounded, reference))
            self._spread(_centred(reference), _centred(rounded))

    def _spread(self, reference: Array, rows: Array) -> None:
        dots = (reference * rows).sum(axis=1, dtype=np.float64)
        squares = np.square(reference).sum(axis=1, dtype=np.float64)
        lengths = np.sqrt(squares * np.square(rows).sum(axis=1, dtype=np.float64))
        known = np.isfinite(lengths) & (lengths > 0)
        self._cosines.append(np.where(known, dots / np.where(known, lengths, 1), 0.0))
        difference = reference - rows
        self._noise += float(np.square(difference).sum(dtype=np.float64))
        self._signal += float(squares.sum())
        largest = float(np.abs(difference).max())
        self._worst = math.inf if math.isnan(largest) else max(self._worst, largest)

    def logits(self) -> dict[str, Any]:
        """The keys of `fidelity.compare_output`; cosines are of single positions."""
        cosines = np.concatenate(self._cosines)
        noisy = self._noise > 0 and self._signal > 0 and math.isfinite(self._noise)
        return {
            "sqnr_db": 10 * math.log10(self._signal / self._noise) if noisy else None,
            "exact": self._equal,
            "cosine": float(cosines.mean()),
            "cosine_min": float(cosines.min()),
            "max_abs": self._worst if math.isfinite(self._worst) else None,
            "non_finite": self._non_finite,
            "top1_agreement": float(np.concatenate(self._agreed).mean()),
        }

    def divergence(self) -> dict[str, float | None]:
        """KL(reference || other) in nats a token: mean, its standard error, and the 99th percentile."""
        found = np.concatenate(self._divergence)
        if not np.isfinite(found).all():
            return {"mean": None, "stderr": None, "p99": None}
        error = float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else None
        return {"mean": float(found.mean()), "stderr": error, "p99": float(np.percentile(found, 99))}


def _centred(rows: Array) -> Array:
    wide = rows.astype(np.float32)
    return np.asarray(wide - wide.mean(axis=1, keepdims=True))


def compare_recorded(reference: Recorded, other: Recorded) -> Comparison:
    """Two recorded models, over the windows that both have."""
    compared = Comparison()
    for index in range(min(reference.count, other.count)):
        compared.add(reference.rows(index), other.rows(index).astype(np.float32))
    return compared
