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
        ("model.onnx",), (Port("a", "b", (0, 2, 3, 1)),), (Port("c", "d"),), ("note",), {"x": 1}
    )
    assert Outcome.from_json(outcome.to_json()) == outcome
