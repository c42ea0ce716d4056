"""What is wrong with calibration data for the inputs it is meant for: errors that stop, warnings that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..targets.errors import UsageError
from ..targets.facts import Dim, IoFact

if TYPE_CHECKING:
    from .preprocess import Preprocessing
    from .samples import Rows

FEW = 16
"""Fewer calibration samples than this seldom show the range of every activation."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, with which input, and how to mend it."""

    severity: str
    """"error" or "warning"."""
    code: str
    """A short, stable name: layout, shape, dtype, nan, inf, range, few, duplicates, constant, blank, vocabulary,
    mask, channels, no-sample-axis, random."""
    input: str
    sentence: str
    mend: str = ""

    def __str__(self) -> str:
        text = f"input {self.input}: {self.sentence}" if self.input else self.sentence
        return f"{text}. {self.mend}" if self.mend else text


def error(code: str, name: str, sentence: str, mend: str = "") -> Finding:
    """A finding about input `name` that stops the conversion."""
    return Finding("error", code, name, sentence, mend)


def warning(code: str, name: str, sentence: str, mend: str = "") -> Finding:
    """A finding about input `name` (or all of them, "") that is kept in the manifest."""
    return Finding("warning", code, name, sentence, mend)


def stop(findings: Iterable[Finding], data: str) -> None:
    """Raise UsageError for the first error among `findings`, naming how many others there are."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    first = errors[0]
    others = "".join(f"; also: {other.sentence} ({other.input})" for other in errors[1:4])
    where = f"{data}: input {first.input}" if first.input else data
    raise UsageError(first.sentence + others, where=where, mend=first.mend)


def fit(io: IoFact, dtype: str, shape: tuple[int, ...]) -> tuple[Finding, ...]:
    """Whether data of `dtype` and `shape` (sample axis first) can be the input `io` at all."""
    return tuple(finding for finding in (_shape(io, shape), _dtype(io, dtype)) if finding is not None)


def _shape(io: IoFact, shape: tuple[int, ...]) -> Finding | None:
    wanted = io.shape
    if wanted is None or _fits(wanted, shape):
        return None
    takes = f"the model takes {_words(wanted)}"
    if len(shape) == len(wanted) - 1 and _fits(wanted[1:], shape, axis=0):
        return error(
            "no-sample-axis",
            io.name,
            f"shape {shape} has no sample axis; {takes}",
            "Put the samples along the first axis (array[None] for a single one)",
        )
    if len(shape) == len(wanted) == 4:
        for name, other, order in (("NHWC", "NCHW", (0, 3, 1, 2)), ("NCHW", "NHWC", (0, 2, 3, 1))):
            if _fits(wanted, tuple(shape[axis] for axis in order)):
                return error(
                    "layout",
                    io.name,
                    f"shape {shape} is {name}; {takes}, which is {other}",
                    f"Transpose it: array.transpose{order}",
                )
    return error("shape", io.name, f"shape {shape} does not fit; {takes}", "Resize or reshape the data")


def _fits(wanted: tuple[Dim, ...], shape: tuple[int, ...], axis: int = 1) -> bool:
    """Whether every fixed size agrees; axes before `axis` count samples and may have any size."""
    return len(wanted) == len(shape) and all(
        not isinstance(size, int) or size == have
        for size, have in zip(wanted[axis:], shape[axis:], strict=True)
    )


def _words(wanted: tuple[Dim, ...]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in wanted)})"


def _dtype(io: IoFact, dtype: str) -> Finding | None:
    kind = _kind(dtype)
    wanted = _kind(io.dtype)
    if kind is None or wanted is None:
        return error("dtype", io.name, f"{dtype} data for an input of {io.dtype}", "Give numbers")
    if wanted == "float" and kind != "float":
        pixels = "; pixels of 0 to 255 must be scaled as the model was trained" if dtype == "uint8" else ""
        return warning("dtype", io.name, f"{dtype} data for an input of {io.dtype} was converted{pixels}")
    if wanted == "float" and dtype == "float64" and io.dtype != "float64":
        return warning("dtype", io.name, f"float64 data was converted to {io.dtype}")
    if wanted != "float" and kind == "float":
        return error(
            "dtype",
            io.name,
            f"{dtype} data for an input of {io.dtype}",
            f"Give whole numbers: array.astype({io.dtype!r}), if it holds ids or raw pixels at all",
        )
    if wanted == "bool" and kind == "integer":
        return warning("dtype", io.name, f"{dtype} data was converted to bool")
    return None


def _kind(dtype: str) -> str | None:
    """The family of a dtype; None for text, objects and complex numbers."""
    for kind, stems in (("float", ("float", "bfloat")), ("integer", ("int", "uint")), ("bool", ("bool",))):
        if dtype.startswith(stems):
            return kind
    return None


def examine(
    arrays: Mapping[str, Rows],
    inputs: tuple[IoFact, ...],
    *,
    expects: Preprocessing | None = None,
    order_known: bool = False,
    calibration: int | None = None,
    vocabulary: int | None = None,
    token_types: int | None = None,
    digests: list[bytes] | None = None,
) -> tuple[Finding, ...]:
    """Everything that can be seen in the data, input by input; reads each array once, sample by sample.

    Args:
        arrays: all samples by input name, sample axis first; they are read one sample at a time.
        expects: the model's own preprocessing, to hold the range against.
        order_known: the channel order is known to be right, as it is where modelport read the images.
        calibration: how many of the samples calibrate; None for all.
        vocabulary: number of token ids that the model knows.
        token_types: number of token types that it knows.
        digests: one hash a sample where they are known already, equal exactly for copies.
    """
    from . import values

    findings: list[Finding] = []
    for io in inputs:
        array = arrays[io.name]
        misfits = fit(io, str(array.dtype), array.shape)
        findings += misfits
        if any(finding.severity == "error" for finding in misfits):
            continue
        seen = values.look(array)
        if seen.count == 0:
            continue
        if io.dtype.startswith(("float", "bfloat")):
            findings += values.floats(io, seen, expects, order_known=order_known)
        else:
            findings += values.integers(io, seen, vocabulary=vocabulary, token_types=token_types)
    hashes = digests if digests is not None else values.digests(arrays)
    findings += _amount(hashes, len(hashes) if calibration is None else calibration)
    return tuple(findings)


def _amount(digests: list[bytes], calibration: int) -> list[Finding]:
    findings = []
    if calibration < FEW:
        findings.append(
            warning(
                "few",
                "",
                f"only {calibration} samples calibrate; ranges from so few are unsure",
                f"Give at least {FEW}, better 100 to 500",
            )
        )
    copies = len(digests) - len(set(digests))
    if copies:
        findings.append(
            warning(
                "duplicates",
                "",
                f"{copies} of {len(digests)} samples ({copies / len(digests):.0%}) are exact copies of others",
                "Copies add nothing; give more varied data",
            )
        )
    return findings
