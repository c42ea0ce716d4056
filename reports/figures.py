"""Figures as people read them: bytes, milliseconds, shares, decibels, and a dash for what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..targets import figures

UNKNOWN = "–"
THIS_HOST = "this-host"
"""The device's name in a manifest where no other was judged."""


def size(value: float | None) -> str:
    """Bytes with a decimal unit: 1.53 MB."""
    return UNKNOWN if value is None else figures.size(value)


def exact_size(value: float | None) -> str:
    """Bytes to the byte: 1,234,567 B."""
    return UNKNOWN if value is None else f"{value:,.0f} B"


def milliseconds(value: float | None) -> str:
    """Milliseconds, or microseconds below 0.1 ms."""
    if value is None:
        return UNKNOWN
    return f"{value * 1e3:.3g} µs" if value < 0.1 else f"{value:.3g} ms"


def percent(value: float | None) -> str:
    """A share 0..1 as a percentage; 100 % only where it is whole."""
    if value is None:
        return UNKNOWN
    return f"{100 * value:.4g} %" if value in (0, 1) or value < 0.9995 else f"{100 * value:.3f} %"


def count(value: float | None) -> str:
    """A number of parameters or operations: 22.7 M."""
    return UNKNOWN if value is None else figures.count(value)


def term(value: float | None, unit: str) -> str:
    """One term of a verdict in its unit."""
    if value is None:
        return UNKNOWN
    if unit == "B":
        return size(value)
    if unit == "tok/s":
        return f"{rate(value)} {unit}"
    return milliseconds(value) if unit == "ms" else f"{value:.4g} {unit}"


def rate(value: float) -> str:
    """Tokens a second: three figures, and whole ones from a hundred to a hundred thousand."""
    if value >= 1e5:
        return figures.count(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def fidelity_lines(fidelity: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(output name, sentence) per output: SQNR, cosine, top-1 agreement where it applies."""
    if fidelity is None:
        return []
    lines = []
    for name, found in fidelity["outputs"].items():
        sqnr = (
            "identical"
            if found["exact"]
            else f"SQNR {found['sqnr_db']:.1f} dB"
            if found["sqnr_db"]
            else "SQNR –"
        )
        parts = [sqnr, f"cosine {found['cosine']:.4f} (worst {found['cosine_min']:.4f})"]
        if found["top1_agreement"] is not None:
            parts.append(f"top-1 agreement {percent(found['top1_agreement'])}")
        if found.get("accuracy") is not None:
            parts.append(
                f"accuracy {percent(found['accuracy'])} (source {percent(found['source_accuracy'])})"
            )
        lines.append((name, ", ".join(parts)))
    return lines


def held_out(manifest: Mapping[str, Any]) -> str:
    """How many samples of what kind the fidelity was measured on."""
    count, given = manifest["fidelity"]["samples"], manifest["calibration"]["given"]
    if manifest.get("verify") == "language":
        what = "held-out text" if given else "Python's own documentation (no text was given)"
        return f"{manifest['fidelity']['tokens']} tokens of {what}"
    return f"{count} {'held-out samples' if given else 'random inputs (no data was given)'}"
