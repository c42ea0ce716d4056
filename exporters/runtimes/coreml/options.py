"""What a user can ask of a Core ML package: the oldest iOS, compute units, shapes, images, labels, metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....targets.errors import Unsupported, UsageError

DEPLOYMENT_TARGETS = ("iOS15", "iOS16", "iOS17", "iOS18")
DEFAULT_TARGET = "iOS17"
LEAST_TARGET = {
    "int8": "iOS17",  # quantize and dequantize
    "int8-weight": "iOS16",  # constexpr_affine_dequantize
    "palette": "iOS16",  # constexpr_lut_to_dense, for tables of any width
    "int4-weight": "iOS18",  # int4 values, and constexpr_blockwise_shift_scale
}
"""The oldest iOS whose operators can hold a scheme's weights (coremltools' opsets say which)."""
COMPUTE_UNITS = {
    "all": "ALL",
    "cpuAndNeuralEngine": "CPU_AND_NE",
    "cpuAndGPU": "CPU_AND_GPU",
    "cpuOnly": "CPU_ONLY",
}
"""Core ML's `MLModelConfiguration.computeUnits` by coremltools' names for them."""
METADATA = ("author", "description", "licence", "license", "version")
LONGEST_RANGE = 1 << 20
MOST_LABELS = 1 << 20

Axis = int | tuple[int, int]
"""A fixed size, or the least and largest of a range."""


@dataclass(frozen=True)
class Image:
    """An input that takes an image: x = pixel * scale + bias, by channel, with pixels of 0 to 255."""

    scale: tuple[float, ...] = (1.0,)
    bias: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class Wanted:
    """The options of one conversion, validated as far as that goes without the model."""

    target: str = DEFAULT_TARGET
    compute_units: str = "all"
    shapes: Mapping[str, tuple[tuple[Axis, ...], ...]] = field(default_factory=dict)
    """By input: one shape that may hold ranges, or several fixed ones."""
    image: Image | None = None
    labels: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def read(options: Mapping[str, Any], scheme: str) -> Wanted:
    """The options that this runtime reads from a job's. Raises UsageError naming the option.

    Without "deployment_target" it is iOS17, or the oldest that can hold the scheme where that is later.
    """
    return Wanted(
        target=_target(options.get("deployment_target"), scheme),
        compute_units=_one_of(options.get("compute_units") or "all", COMPUTE_UNITS, "compute-units"),
        shapes=read_shapes(options.get("shapes") or ""),
        image=None if options.get("image_input") is None else read_image(options["image_input"]),
        labels=_labels(options.get("labels")),
        metadata=_metadata(options.get("metadata") or ()),
    )


def _one_of(value: str, known: Iterable[str], option: str) -> str:
    by_lower = {name.lower(): name for name in known}
    if value.lower() not in by_lower:
        raise UsageError(
            f"{value!r} is not known", where=f"--{option}", mend=f"Known are {', '.join(by_lower.values())}"
        )
    return by_lower[value.lower()]


def _target(value: str | None, scheme: str) -> str:
    least = LEAST_TARGET.get("palette" if scheme.startswith("palette") else scheme, DEPLOYMENT_TARGETS[0])
    if value is None:
        return max(DEFAULT_TARGET, least)
    chosen = _one_of(value, DEPLOYMENT_TARGETS, "deployment-target")
    if chosen < least:
        raise Unsupported(
            f"{scheme} needs {least}, not {chosen}",
            where="--deployment-target",
            mend=f"Ask for {least} or later, or for another scheme",
        )
    return chosen


def read_shapes(text: str) -> dict[str, tuple[tuple[Axis, ...], ...]]:
    """Free shapes: "ids=1x64|1x128" lists them, "ids=1x1..512" gives a range; inputs stand apart by ";".

    >>> read_shapes("ids=1x1..512")
    {'ids': ((1, (1, 512)),)}
    """
    found: dict[str, tuple[tuple[Axis, ...], ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, listed = part.partition("=")
        where = f"--shapes: {name.strip()}"
        shapes = tuple(_shape(shape.strip(), where) for shape in listed.split("|"))
        if not equals or not name.strip() or name.strip() in found:
            raise UsageError("an input's shapes are given once, as in ids=1x1..512", where=where)
        if len({len(shape) for shape in shapes}) > 1:
            raise UsageError("the shapes differ in their number of axes", where=where)
        if len(shapes) > 1 and any(isinstance(axis, tuple) for shape in shapes for axis in shape):
            raise UsageError("ranges cannot stand in a list of shapes", where=where)
        found[name.strip()] = tuple(dict.fromkeys(shapes))
    return found


def _shape(text: str, where: str) -> tuple[Axis, ...]:
    axes: list[Axis] = []
    for size in text.split("x"):
        match = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", size.strip())
        if match is None or int(match[1]) < 1:
            raise UsageError(
                f"{size.strip()!r} is not a size",
                where=where,
                mend="Write sizes as in 1x3x224x224 or 1x1..512",
            )
        least, most = int(match[1]), int(match[2] or match[1])
        if most < least or most > LONGEST_RANGE:
            raise UsageError(f"{size.strip()!r} is not a range up to {LONGEST_RANGE}", where=where)
        axes.append(least if most == least else (least, most))
    return tuple(axes)


def read_image(text: str) -> Image:
    """An image input: "scale=S,bias=R:G:B", either by channel or once for all; "" for pixels as they are.

    >>> read_image("scale=0.5,bias=-1:-1:-1")
    Image(scale=(0.5,), bias=(-1.0, -1.0, -1.0))
    """
    values: dict[str, tuple[float, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, listed = part.partition("=")
        try:
            numbers = tuple(float(number) for number in listed.split(":"))
        except ValueError:
            numbers = ()
        finite = all(abs(number) < 1e30 for number in numbers)  # not NaN either
        if key not in ("scale", "bias") or len(numbers) not in (1, 3) or not finite or key in values:
            raise UsageError(
                f"{part!r} is not understood", where="--image-input", mend="Write scale=S,bias=R:G:B"
            )
        values[key] = numbers
    if 0.0 in values.get("scale", ()):
        raise UsageError("a scale of 0 leaves nothing of the image", where="--image-input")
    return Image(**values)


def _labels(path: str | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"not readable as text: {error}", where=f"--labels {path}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines or len(lines) > MOST_LABELS or len(set(lines)) != len(lines) or not all(lines):
        raise UsageError(
            "a label stands in each line, no two alike",
            where=f"--labels {path}",
            mend="Number labels that are the same",
        )
    return tuple(lines)


def _metadata(given: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        known = _one_of(key.strip(), METADATA, "metadata")
        if not equals:
            raise UsageError(f"{pair!r} has no value", where="--metadata", mend="Write it as in author=Ada")
        found["licence" if known == "license" else known] = value
    return found
