"""The README of a package: real names, types and shapes, in Swift that says what it needs, whatever the names are."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters.runtimes.coreml import readme
from modelport.exporters.runtimes.coreml.swift import Feature, swift

IMAGE = Feature("image", "image", "RGB", (224, 320), pixels="kCVPixelFormatType_32BGRA")
IDS = Feature("input_ids", "array", "Int32", (1, 128), "any of 1 × 1..512")
LOGITS = Feature("class_logits", "array", "Float", (1, 10))


def test_the_swift_uses_the_packages_own_names_types_and_shapes() -> None:
    code = "\n".join(swift("model", [IDS], [LOGITS], "cpuAndNeuralEngine", "15"))
    assert "func predict(inputIds: MLShapedArray<Int32>) throws -> MLShapedArray<Float> {" in code
    assert '"input_ids": MLFeatureValue(shapedArray: inputIds)' in code
    assert "[1, 128]" in code
    assert 'output.featureValue(for: "class_logits")!.shapedArrayValue(of: Float.self)!' in code
    assert "configuration.computeUnits = .cpuAndNeuralEngine" in code
    assert 'forResource: "model"' in code


def test_what_needs_a_later_system_says_so() -> None:
    def since(*features: Feature, units: str = "all", system: str = "15") -> str:
        code = "\n".join(swift("model", list(features), [LOGITS], units, system))
        return re.search(r"@available\(iOS (\d+)", code)[1]

    assert since(IDS) == "15"
    assert since(IDS, units="cpuAndNeuralEngine") == "16"
    assert since(Feature("x", "array", "Float16", (1,))) == "16"
    assert since(IDS, system="18") == "18"


def test_several_outputs_come_back_as_one_tuple() -> None:
    label, scores = Feature("classLabel", "label", "String"), Feature("classLabel_probs", "scores")
    code = "\n".join(swift("model", [IMAGE], [LOGITS, label, scores]))
    assert (
        "func predict(image: CVPixelBuffer) throws -> (classLogits: MLShapedArray<Float>, classLabel: String, "
        in code
    )
    assert ".stringValue" in code
    assert ".dictionaryValue" in code
    assert (
        "return (classLogits: classLogits, classLabel: classLabel, classLabelProbs: classLabelProbs)" in code
    )


def test_the_table_tells_what_each_feature_is_in_the_source() -> None:
    text = readme.render("model.mlpackage", [IDS], [LOGITS], system="17", names={"input_ids": "input.ids"})
    row = "| input | `input_ids` | MLMultiArray, Int32, 1 × 128 | `input.ids` | any of 1 × 1..512 |"
    assert row in text
    assert "iOS 17 and later" in text


def test_an_image_says_how_its_pixels_are_used() -> None:
    data = {
        "image": {"input": "image", "source": "x", "scale": [0.5], "bias": [-1.0]},
        "compute_units": "all",
    }
    text = readme.render("model.mlpackage", [IMAGE], [LOGITS], data=data)
    assert "pixel × [0.5] + [-1.0]" in text
    assert "image, RGB, 320 × 224 pixels" in text


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_any_name_stays_inside_its_quotes(given_name: str, taken_name: str) -> None:
    features = (
        [Feature(given_name, "array", "Float", (1,))],
        [Feature(taken_name + "!", "array", "Float", (1,))],
    )
    text = readme.render("model.mlpackage", *features)
    code = text.split("```swift\n")[1].split("\n```")[0]
    strings = re.findall(r'"((?:[^"\\\n]|\\.)*)"', code)
    assert len(strings) == 4
    assert len(code.splitlines()) == 15
    variables = re.findall(r"^func predict\((\w+): ", code, re.MULTILINE)
    assert variables
    assert variables[0].isascii()
    assert all(
        row.count("|") - row.count("\\|") == 6 for row in text.splitlines() if row.startswith("| input")
    )
