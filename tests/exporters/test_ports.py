"""Names and layouts between source and artifact."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters.job import Outcome, Port
from modelport.exporters.ports import to_artifact, to_source


@given(st.permutations(range(4)))
def test_outputs_come_back_in_the_sources_layout(permutation: list[int]) -> None:
    port = Port("image", "serving_default_image", tuple(permutation))
    given = {"image": np.arange(120).reshape(2, 3, 4, 5)}
    moved = to_artifact(given, [port])
    assert moved["serving_default_image"].shape == tuple(np.array([2, 3, 4, 5])[permutation])
    np.testing.assert_array_equal(to_source(moved, [port])["image"], given["image"])


def test_ports_survive_the_process_boundary() -> None:
    outcome = Outcome(
        ("model.onnx",),
        (Port("a", "b", (0, 2, 3, 1), (0.5,), (1.0,)),),
        (Port("c", "d"),),
        ("note",),
        {"x": 1},
    )
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_an_image_gets_the_pixels_that_its_values_are_computed_from() -> None:
    port = Port("x", "image", scale=(0.5, 0.25, 2.0), bias=(-1.0, 0.0, 3.0))
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    pixels = to_artifact({"x": values}, [port])["image"]
    by_channel = np.array(port.scale).reshape(1, 3, 1, 1), np.array(port.bias).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(pixels * by_channel[0] + by_channel[1], values, atol=1e-5)


def test_ports_of_older_manifests_are_read() -> None:
    assert Port.read([{"source": "a", "artifact": "b", "permutation": [1, 0]}]) == (Port("a", "b", (1, 0)),)
