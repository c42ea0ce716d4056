"""Whole int8 models: what is alive at once never shares bytes, and a plan in the file computes the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import edge_models
from modelport.exporters.litert import flatbuffer
from modelport.exporters.runtimes.tflite_micro.arena import plan, with_offline_plan

pytestmark = pytest.mark.slow

FIGURES = Path(__file__).resolve().parents[2] / "benchmarks" / "arena_figures.json"
NAMES = ("digits", "branches", "unet", "attention", "resized")


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    return request.param, edge_models.build(request.param)


def test_the_arena_is_the_one_that_was_measured(made: tuple[str, bytes]) -> None:
    name, data = made
    kept = json.loads(FIGURES.read_text(encoding="utf-8"))["models"][name]
    if hashlib.sha256(data).hexdigest() != kept["sha256"]:
        pytest.skip("these versions of TensorFlow and Keras make other bytes than those measured")
    assert kept["measured"]
    for theirs in kept["measured"]:
        found = plan(data, theirs["pointer_size"])
        assert (found.head, found.total) == (theirs["head"], theirs["total"])
        assert found.needed >= theirs["smallest"]


def test_what_is_alive_at_once_lies_apart(made: tuple[str, bytes]) -> None:
    found = plan(made[1])
    for i, one in enumerate(found.buffers):
        assert one.offset % 16 == 0
        for other in found.buffers[:i]:
            if one.first <= other.last and other.first <= one.last:
                assert one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset
    assert found.peak_bytes <= found.head <= sum(buffer.bytes for buffer in found.buffers)
    assert found.peak_tensor in {buffer.name for buffer in found.buffers}


def test_a_plan_in_the_file_changes_neither_arena_nor_outputs(made: tuple[str, bytes]) -> None:
    data = made[1]
    found = plan(data)
    written = flatbuffer.write(with_offline_plan(flatbuffer.read(data), found))
    again = plan(written)
    assert (again.head, again.tail, again.offsets) == (found.head, found.tail, found.offsets)
    samples = edge_models.random_inputs(data, 1)
    for before, after in zip(
        edge_models.reference_outputs(data, samples)[0],
        edge_models.reference_outputs(written, samples)[0],
        strict=True,
    ):
        assert before.tobytes() == after.tobytes()
