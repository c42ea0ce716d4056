"""An ONNX file as a torch program: operators against the standard's own cases, a model against ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from modelport.sources.loading import onnx_program
from modelport.sources.loading.onnx_program.call import Call
from modelport.sources.loading.onnx_program.dtypes import to_torch
from modelport.sources.loading.onnx_program.expansion import expanded
from modelport.targets.errors import Unsupported
from onnx_node_cases import LACKING, cases, check

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads only wait for each other in models as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(
    model: onnx.ModelProto, inputs: list[np.ndarray[Any, Any]], known: set[int]
) -> list[np.ndarray[Any, Any]]:
    """The program's outputs, with the inputs at `known` bound: shapes, axes and the like."""
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    live = []
    for index, (value, array) in enumerate(zip(bound.graph.input, inputs, strict=False)):
        if index in known:
            bound.graph.initializer.append(numpy_helper.from_array(array, value.name))
            continue
        live.append(array)
        value.type.tensor_type.shape.ClearField("dim")
        for size in array.shape:
            value.type.tensor_type.shape.dim.add().dim_value = size
    loaded = onnx_program.build(bound, Path("case.onnx"), 8)
    return [value.numpy() for value in loaded.module(*[to_torch(array) for array in live])]


def test_the_standards_own_cases_pass_but_for_those_that_are_named() -> None:
    failed, total = {}, 0
    for case in cases():
        total += 1
        reason = check(case, export=False)
        if reason:
            failed[case.name] = reason
    named = {name for names in LACKING.values() for name in names}
    assert {name: reason for name, reason in failed.items() if name not in named} == {}
    assert named - failed.keys() == set()  # what passes leaves the list
    assert total > 1700


def graph(
    nodes: list[Any], inputs: dict[str, list[int]], outputs: list[str], **constants: Any
) -> onnx.ModelProto:
    """A model of float32 inputs."""
    made = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])


def test_what_does_not_depend_on_the_inputs_is_computed_beforehand() -> None:
    model = graph(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "last"], ["n"]),
            helper.make_node("Concat", ["minus", "n"], ["wanted"], axis=0),
            helper.make_node("Reshape", ["x", "wanted"], ["y"]),
        ],
        {"x": [2, 3, 4]}, ["y"], last=np.array([2]), minus=np.array([-1]),
    )  # fmt: skip
    loaded = onnx_program.build(model, Path("m.onnx"), 8)
    assert [step.op for step in loaded.module._steps] == ["Reshape"]
    assert loaded.module(*loaded.example)[0].shape == (6, 4)


def test_a_form_that_is_refused_is_computed_beforehand_where_its_inputs_are_known() -> None:
    regions = np.array([[0, 0, 3, 3]], np.float32)
    model = graph(
        [
            helper.make_node(
                "RoiAlign", ["image", "regions", "zero"], ["r"], mode="max", output_height=2, output_width=2
            ),
            helper.make_node("Add", ["x", "r"], ["y"]),
        ],
        {"x": [1, 1, 2, 2]}, ["y"], image=np.ones((1, 1, 4, 4), np.float32), regions=regions, zero=np.array([0]),
    )  # fmt: skip
    loaded = onnx_program.build(model, Path("m.onnx"), 8)
    assert [step.op for step in loaded.module._steps] == ["Add"]


def test_what_the_standard_writes_out_has_the_attributes_defaults() -> None:
    node = helper.make_node("HannWindow", ["size"], ["y"])
    written = expanded(node, Call("HannWindow", [np.array(10)], {}, 17, 1, "here"))
    assert written is not None
    assert not [a for inner in written.node for a in inner.attribute if a.ref_attr_name]
    assert any(inner.op_type == "Constant" and inner.attribute for inner in written.node)
    assert all(inner.attribute for inner in written.node if inner.op_type == "Constant")


def test_an_8_bit_float_beyond_its_range_is_no_number_unless_it_saturates() -> None:
    for saturate, wanted in ((1, [448.0, 448.0]), (0, [448.0, float("nan")])):
        nodes = [
            helper.make_node("Cast", ["x"], ["f"], to=onnx.TensorProto.FLOAT8E4M3FN, saturate=saturate),
            helper.make_node("Cast", ["f"], ["y"], to=1),
        ]
        (y,) = run(graph(nodes, {"x": [2]}, ["y"]), [np.array([463.0, 470.0], np.float32)], set())
        np.testing.assert_array_equal(y, np.array(wanted, np.float32))


def test_a_known_branch_and_a_counted_loop_are_unrolled() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "one"], ["w"]), helper.make_node("Identity", ["c"], ["d"])], "body",
        [helper.make_tensor_value_info(n, t, []) for n, t in (("i", 7), ("c", 9))]
        + [helper.make_tensor_value_info("v", 1, [2])],
        [helper.make_tensor_value_info("d", 9, []), helper.make_tensor_value_info("w", 1, [2])],
    )  # fmt: skip
    model = graph(
        [helper.make_node("Loop", ["times", "go", "x"], ["y"], body=body)], {"x": [2]}, ["y"],
        times=np.array(3), go=np.array(True), one=np.float32(1),
    )  # fmt: skip
    (y,) = run(model, [np.array([1.0, 2.0], np.float32)], set())
    assert y.tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("NonZero", ["x"], ["y"], name="which"), "NonZero"),
        (helper.make_node("Resize", ["x", "", "s"], ["y"], name="which", mode="lanczos"), "lanczos"),
        (
            helper.make_node("Mul", ["x", "x"], ["y"], name="which", domain="com.microsoft"),
            "com.microsoft.Mul",
        ),
    ],
)
def test_what_is_not_covered_is_refused_by_node(node: Any, words: str) -> None:
    model = graph([node], {"x": [1, 1, 4, 4]}, ["y"], s=np.array([1, 1, 2, 2], np.float32))
    with pytest.raises(Unsupported) as caught:
        onnx_program.build(model, Path("m.onnx"), 8)
    assert words in str(caught.value)
    assert "which" in caught.value.where


def test_a_free_axis_that_cannot_be_guessed_is_refused() -> None:
    model = graph([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 3, 8, 8]}, ["y"])
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(Unsupported, match="axis 2"):
        onnx_program.build(model, Path("m.onnx"), 8)


def test_a_file_of_digits_becomes_the_program_that_onnx_runtime_runs(digits: Path) -> None:
    import onnxruntime

    loaded = onnx_program.load(digits / "digits.onnx", {})
    images = np.random.default_rng(0).standard_normal(tuple(loaded.example[0].shape), np.float32)
    session = onnxruntime.InferenceSession(str(digits / "digits.onnx"), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {loaded.input_names[0]: images})
    program = torch.export.export(loaded.module, (torch.from_numpy(images),), strict=False)
    (given,) = program.module()(torch.from_numpy(images))
    assert np.abs(given.detach().numpy() - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_every_operator_is_in_the_table_for_users() -> None:
    from modelport.sources.loading.onnx_program import nested, operators, sequences

    table = (
        (Path(__file__).parents[2] / "docs" / "onnx.md").read_text(encoding="utf-8").split("## Operators")[1]
    )
    named = set(re.findall(r"\w+", table))
    assert {*operators.OPERATORS, *nested.NESTED, *sequences.SEQUENCES} <= named
