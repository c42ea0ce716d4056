"""Where activations peak: with what runtimes fuse in place, and never below what one operator needs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from modelport.sources import flops, peaks
from modelport.sources.flops import Step


def step(reads, name, size, op_class="conv") -> Step:
    return Step(reads, {name: size}, False, f"op {name}", op_class.title(), op_class)


def test_a_norm_and_an_activation_take_no_memory_of_their_own():
    steps = [step(["x"], "a", 100), step(["a"], "b", 100, "norm"), step(["b"], "c", 100, "elementwise")]
    steps.append(step(["c"], "d", 10))
    found = peaks.find(steps, {"x": 8}, ["d"])
    assert found.elements == 110
    assert (found.operator, found.kind, found.tensor, found.tensor_elements) == ("op d", "Conv", "a", 100)
    assert found.floor == 110
    assert flops.liveness(steps, {"x": 8}, ["d"]) == 200


def test_an_activation_whose_input_is_read_again_is_not_in_place():
    steps = [
        step(["x"], "a", 100),
        step(["a"], "b", 100, "elementwise"),
        step(["a", "b"], "c", 1, "elementwise"),
    ]
    assert peaks.find(steps, {"x": 8}, ["c"]).elements == 201


def test_a_sum_of_two_values_is_not_in_place():
    steps = [step(["x"], "a", 50), step(["x"], "b", 50), step(["a", "b"], "c", 50, "elementwise")]
    assert peaks.find(steps, {"x": 8}, ["c"]).elements == 150


def test_a_value_that_is_an_output_is_kept():
    steps = [step(["x"], "a", 100), step(["a"], "b", 100, "elementwise")]
    assert peaks.find(steps, {"x": 8}, ["a", "b"]).elements == 200


@st.composite
def chains(draw):
    count = draw(st.integers(1, 8))
    steps, sizes = [], {"v0": draw(st.integers(1, 99))}
    for index in range(count):
        reads = draw(st.lists(st.integers(0, index), min_size=1, max_size=2, unique=True))
        size = draw(st.integers(1, 99))
        op_class = draw(st.sampled_from(["conv", "norm", "elementwise"]))
        steps.append(step([f"v{r}" for r in reads], f"v{index + 1}", size, op_class))
    return steps, sizes, [f"v{count}"]


@given(chains())
@settings(deadline=None)
def test_the_peak_lies_between_one_operators_need_and_the_unfused_peak(chain):
    steps, inputs, outputs = chain
    found = peaks.find(steps, inputs, outputs)
    assert found.floor <= found.elements <= flops.liveness(steps, inputs, outputs)
    assert found.tensor_elements <= found.elements
