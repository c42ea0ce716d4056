"""The Swift that loads and runs a package, with its own names, types and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

UNITS_SINCE = {"all": 15, "cpuAndNeuralEngine": 16, "cpuAndGPU": 15, "cpuOnly": 15}
"""MLModelConfiguration's compute units, and the iOS that brought each."""
HALF_SINCE = 16
"""The iOS whose arrays may hold Float16."""
WORDS = """
as associatedtype break case catch class continue default defer deinit do else enum extension fallthrough false
fileprivate for func guard if import in init inout internal is let nil operator private protocol public repeat rethrows
return self static struct subscript super switch throw throws true try typealias var where while
model configuration input output url
"""
KEYWORDS = frozenset(WORDS.split())
"""Swift's words, and the names that the code below uses itself."""


@dataclass(frozen=True)
class Feature:
    """One input or output of the written package, in Swift's words."""

    name: str
    kind: str
    """array, image, label, scores or other."""
    scalar: str = ""
    shape: tuple[int, ...] = ()
    free: str = ""
    """The other shapes that are allowed, in words."""
    pixels: str = ""
    """Pixel format of an image."""
    about: str = ""

    @property
    def type(self) -> str:
        """What the table of the README says that it is."""
        sizes = " × ".join(map(str, self.shape))
        if self.kind == "image":
            asked = f", {self.pixels}" if self.pixels else ""
            return f"image, {self.scalar}, {self.shape[1]} × {self.shape[0]} pixels{asked}"
        if self.kind == "array":
            return f"MLMultiArray, {self.scalar}, {sizes}"
        return {"label": f"class label, {self.scalar}", "scores": "score by class label"}.get(
            self.kind, self.scalar
        )


def swift(
    stem: str, inputs: list[Feature], outputs: list[Feature], units: str = "all", system: str = ""
) -> list[str]:
    """The lines of a Swift function that loads the compiled model and runs it once."""
    variables = _variables([*inputs, *outputs])
    takes = ", ".join(_parameter(variables[f.name], f) for f in inputs)
    chosen = units if units in UNITS_SINCE else "all"
    half = HALF_SINCE if any(f.scalar == "Float16" for f in (*inputs, *outputs)) else 15
    since = max(int(system or 15), UNITS_SINCE[chosen], half)
    body = [
        "let configuration = MLModelConfiguration()",
        f"configuration.computeUnits = .{chosen}",
        f'let url = Bundle.main.url(forResource: {_text(stem)}, withExtension: "mlmodelc")!',
        "let model = try MLModel(contentsOf: url, configuration: configuration)",
        "let input = try MLDictionaryFeatureProvider(dictionary: [",
        *(f"    {_text(f.name)}: {_given(variables[f.name], f)}," for f in inputs),
        "])",
        "let output = try model.prediction(from: input)",
        *(line for f in outputs for line in _taken(variables[f.name], f)),
    ]
    gives = [(variables[f.name], _result(f)) for f in outputs]
    arrow = (
        ", ".join(f"{name}: {kind}" for name, kind in gives)
        if len(gives) > 1
        else gives[0][1]
        if gives
        else "Void"
    )
    returned = (
        ", ".join(f"{name}: {name}" for name, _ in gives) if len(gives) > 1 else "".join(n for n, _ in gives)
    )
    pair = f"({arrow})" if len(gives) > 1 else arrow
    return [
        "import CoreML",
        *(["import CoreVideo"] if any(f.kind == "image" for f in inputs) else []),
        "",
        f"@available(iOS {since}.0, macOS {since - 3 if since < 26 else since}.0, *)",
        f"func predict({takes}) throws -> {pair} {{",
        *(f"    {line}" for line in body),
        f"    return ({returned})" if len(gives) > 1 else f"    return {returned}",
        "}",
    ]


def _parameter(variable: str, feature: Feature) -> str:
    if feature.kind == "image":
        return f"{variable}: CVPixelBuffer"
    return f"{variable}: MLShapedArray<{feature.scalar}>"


def _given(variable: str, feature: Feature) -> str:
    if feature.kind == "image":
        return f"MLFeatureValue(pixelBuffer: {variable})"
    return f"MLFeatureValue(shapedArray: {variable})" + _comment(feature)


def _comment(feature: Feature) -> str:
    return f" /* shape {list(feature.shape)} */" if feature.shape else ""


def _taken(variable: str, feature: Feature) -> list[str]:
    value = f"output.featureValue(for: {_text(feature.name)})!"
    ways = {
        "array": f"{value}.shapedArrayValue(of: {feature.scalar}.self)!{_comment(feature)}",
        "image": f"{value}.imageBufferValue!",
        "label": f"{value}.{'stringValue' if feature.scalar == 'String' else 'int64Value'}",
        "scores": f"{value}.dictionaryValue",
    }
    return [f"let {variable} = {ways.get(feature.kind, value)}"]


def _result(feature: Feature) -> str:
    return {
        "array": f"MLShapedArray<{feature.scalar}>",
        "image": "CVPixelBuffer",
        "label": feature.scalar,
        "scores": "[AnyHashable: NSNumber]",
    }.get(feature.kind, "MLFeatureValue")


def _text(name: str) -> str:
    """A Swift string literal."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"'
        + re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{{{ord(found[0]):x}}}", escaped)
        + '"'
    )


def _variables(features: Iterable[Feature]) -> dict[str, str]:
    """A Swift name for each feature, no two alike: class_logits -> classLogits."""
    found: dict[str, str] = {}
    used = set(KEYWORDS)
    for feature in features:
        if feature.name in found:
            continue
        first, *rest = [part for part in re.split(r"[^A-Za-z0-9]+", feature.name) if part] or ["value"]
        name = first[0].lower() + first[1:] + "".join(part[0].upper() + part[1:] for part in rest)
        name = name if name[0].isalpha() else f"x{name}"
        base, number = name, 1
        while name in used:
            number += 1
            name = f"{base}{number}"
        used.add(name)
        found[feature.name] = name
    return found
