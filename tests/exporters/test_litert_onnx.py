"""ONNX files to .tflite: the importer's program through litert_torch, images in either layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import litert_jobs

pytestmark = pytest.mark.slow

SHAPES = {"nhwc": (1, 6, 8, 3), "nchw": (1, 3, 6, 8)}


def network(path: Path, layout: str) -> Path:
    """A convolution whose image comes in `layout`, as tf2onnx and torch write it; the map goes out likewise."""
    draw = np.random.default_rng(0).standard_normal
    first = helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])
    last = helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 3, 1])
    plain = (helper.make_node("Identity", ["image"], ["x"]), helper.make_node("Identity", ["r"], ["y"]))
    start, end = (first, last) if layout == "nhwc" else plain
    nodes = [
        start,
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        end,
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", 1, ["batch", *SHAPES[layout][1:]])],
        [helper.make_tensor_value_info("y", 1, None)],
        [
            numpy_helper.from_array(draw((5, 3, 3, 3)).astype(np.float32), "w"),
            numpy_helper.from_array(draw(5).astype(np.float32), "b"),
        ],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


@pytest.mark.parametrize("layout", [None, "nchw", "nhwc"])
@pytest.mark.parametrize("own", ["nchw", "nhwc"])
def test_an_image_comes_in_the_layout_that_is_asked_for(tmp_path: Path, own: str, layout: str | None) -> None:
    path = network(tmp_path / "m.onnx", own)
    job = litert_jobs.make_job(tmp_path / "job", "onnx", path, "fp32", layout=layout)
    outcome, written = litert_jobs.export(job)
    held_out = {"image": np.random.default_rng(1).standard_normal((3, *SHAPES[own][1:])).astype(np.float32)}
    (figures,) = litert_jobs.compare(job, outcome, held_out).values()
    assert figures["cosine"] > 0.999999
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(written))
    shapes = [tuple(each["shape"]) for each in interpreter.get_input_details()]
    assert shapes == [SHAPES[layout or own]]
    moved = layout not in (None, own)
    assert bool(outcome.inputs[0].permutation) == bool(outcome.outputs[0].permutation) == moved
    assert any((layout or own).upper() in note and "image" in note for note in outcome.notes)


def test_free_sizes_are_those_of_the_samples(tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path / "m.onnx", "nchw"))
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, str(tmp_path / "free.onnx"))
    images = {"image": np.random.default_rng(1).standard_normal((3, 3, 10, 12)).astype(np.float32)}
    job = litert_jobs.make_job(tmp_path / "job", "onnx", tmp_path / "free.onnx", "fp32", data=images)
    outcome, _ = litert_jobs.export(job)
    (figures,) = litert_jobs.compare(job, outcome, images).values()
    assert figures["cosine"] > 0.999999


def test_a_linear_model_as_scikit_learn_writes_it(tmp_path: Path) -> None:
    draw: Any = np.random.default_rng(0).standard_normal
    nodes = [
        helper.make_node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.5] * 4, scale=[2.0] * 4),
        helper.make_node(
            "LinearClassifier", ["s"], ["label", "raw"], domain="ai.onnx.ml", classlabels_ints=[3, 5, 8],
            coefficients=draw(12).tolist(), intercepts=draw(3).tolist(), post_transform="SOFTMAX",
        ),
        helper.make_node("Normalizer", ["raw"], ["scores"], domain="ai.onnx.ml", norm="L1"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [None, 4])],
        [helper.make_tensor_value_info("label", 7, None), helper.make_tensor_value_info("scores", 1, None)],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), str(tmp_path / "m.onnx"))
    job = litert_jobs.make_job(tmp_path / "job", "onnx", tmp_path / "m.onnx", "fp32")
    outcome, _ = litert_jobs.export(job)
    found = litert_jobs.compare(job, outcome, {"x": draw((20, 4)).astype(np.float32)})
    assert found["scores"]["cosine"] > 0.999999
    assert found["label"]["max_abs"] == 0
