"""README.md of the output folder: what the package takes and gives, and the Swift that loads and runs it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ....mil import package
from ...job import Port
from .swift import Feature, swift

NAME = "README.md"

SCALARS = {"fp32": "Float", "fp64": "Double", "int32": "Int32", "fp16": "Float16", "int8": "Int8"}
"""MIL's dtypes as Swift's scalars."""
PIXELS = {
    "grayscale": "kCVPixelFormatType_OneComponent8",
    "grayscale fp16": "kCVPixelFormatType_OneComponent16Half",
}
SYSTEMS = {6: "15", 7: "16", 8: "17", 9: "18", 10: "26"}
"""The first iOS that reads a specification version (coremltools' `_SPECIFICATION_VERSION_*`)."""


def write(
    folder: Path, artifact: str, inputs: Iterable[Port], outputs: Iterable[Port], data: Mapping[str, Any]
) -> str:
    """Write README.md beside the package `artifact` in `folder`, from the package as it was written.

    `inputs` and `outputs` tell the source's names; `data` is the outcome's: "compute_units", and "image" of an
    input that takes one. Gives the file's name.
    """
    written = package.open_package(folder / artifact)
    text = render(
        artifact,
        [_feature(given, written.predicted_feature) for given in written.inputs],
        [_feature(given, written.predicted_feature) for given in written.outputs],
        system=SYSTEMS.get(written.version, ""),
        names={port.artifact: port.source for port in (*inputs, *outputs)},
        data=data,
    )
    (folder / NAME).write_text(text, encoding="utf-8")
    return NAME


def render(
    artifact: str,
    inputs: list[Feature],
    outputs: list[Feature],
    *,
    system: str = "",
    names: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
) -> str:
    """The README as text; every name is quoted for Markdown and for Swift."""
    data = data or {}
    stem = artifact.removesuffix(".mlpackage")
    since = f" It runs on iOS {system} and later." if system else ""
    lines = [
        f"# {_plain(stem)}",
        "",
        f"`{artifact}` is a Core ML package.{since} What was checked, and how closely it computes what its source "
        "does, stands in `report.html` and `manifest.json`.",
        "",
        "| | name | what it is | in the source | |",
        "|---|---|---|---|---|",
        *(_row("input", feature, names or {}) for feature in inputs),
        *(_row("output", feature, names or {}) for feature in outputs),
        "",
        *_image_lines(data.get("image")),
        f"Drag `{artifact}` into an Xcode project: Xcode compiles it to `{_plain(stem)}.mlmodelc` inside the app.",
        "",
        "```swift",
        *swift(stem, inputs, outputs, data.get("compute_units", "all"), system),
        "```",
        "",
        "From iOS 17 on, `try await model.prediction(from: input)` does not block the caller.",
        "",
    ]
    return "\n".join(lines)


def _image_lines(image: Mapping[str, Any] | None) -> list[str]:
    if not image:
        return []
    scale, bias = image["scale"], image["bias"]
    return [
        f"`{_plain(image['input'])}` takes an image as it is: the package itself computes pixel × {scale} + {bias} by "
        "channel, from pixels of 0 to 255.",
        "",
    ]


def _row(side: str, feature: Feature, names: Mapping[str, str]) -> str:
    about = "; ".join(part for part in (feature.free, feature.about) if part)
    source = names.get(feature.name, "")
    cells = (side, f"`{_plain(feature.name)}`", feature.type, f"`{_plain(source)}`" if source else "", about)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _plain(name: str) -> str:
    """A name inside Markdown's backticks, on one line."""
    return re.sub(r"[`\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", name)


def _feature(given: package.Feature, predicted: str) -> Feature:
    """A feature of the package's own interface in Swift's words; `predicted` is the name of the class label."""
    about = given.description
    if given.kind == "array":
        return Feature(
            given.name, "array", SCALARS.get(given.dtype, "Float"), given.shape, _free(given), about=about
        )
    if given.kind == "image":
        pixels = PIXELS.get(given.dtype, "")
        return Feature(given.name, "image", given.dtype, given.shape, _free(given), pixels, about)
    if given.name == predicted:
        return Feature(given.name, "label", "String" if given.kind == "string" else "Int64", about=about)
    return Feature(given.name, "scores" if given.kind == "dictionary" else "other", about=about)


def _free(given: package.Feature) -> str:
    """The other shapes that an input may have, in words."""
    if given.shapes:
        return f"also {', '.join(' × '.join(map(str, shape)) for shape in given.shapes)}"
    if given.ranges:
        sizes = [str(low) if low == high else f"{low}..{high or ''}" for low, high in given.ranges]
        return f"any of {' × '.join(sizes)}"
    return ""
