"""A graph on a microcontroller: RAM and flash as two limits, where the peak is, cycles, and what would fit."""

from __future__ import annotations

import dataclasses

import pytest

from modelport.exporters import plan
from modelport.targets import cycles, feasibility, registry
from modelport.targets.errors import Unsupported
from modelport.targets.facts import IoFact, ModelFacts, OpFact, PeakFact, TensorFact

EDGE = registry.find_target("edge")
PEAK = PeakFact(400_000, "layer1.conv", "Conv2d", "layer0.expand", 300_000, 350_000)
CNN = ModelFacts(
    kind="torch-exported",
    name="cnn",
    architecture="pytorch",
    tensors=(TensorFact("w", "float32", (64, 64, 3, 3), 147_456),),
    inputs=(IoFact("image", "float32", (1, 3, 128, 128)),),
    outputs=(IoFact("scores", "float32", (1, 10)),),
    ops=(
        OpFact("layer1.conv", "Conv2d", "conv", 2_000_000, 36_864, 400_000),
        OpFact("layer1.relu", "ReLU", "elementwise", 300_000, 0, 600_000),
        OpFact("layer2.conv", "Conv2d", "depthwise", 200_000, 576, 100_000),
    ),
    peak_activations=600_000,
    peak=PEAK,
)


def judge(facts=CNN, device="nrf52840", quant="int8", **given):
    return feasibility.judge(facts, EDGE, registry.find_device(device, EDGE), EDGE.scheme(quant), **given)


def term(verdict, name):
    return next(each for each in verdict.terms if each.name == name)


def test_a_refusal_names_the_peaks_tensor_and_operator():
    verdict = judge()
    assert verdict.verdict == "does not fit"
    assert "layer1.conv (Conv2d)" in verdict.reason
    assert "layer0.expand takes 300 kB" in verdict.reason
    assert term(verdict, "M_activations").value == 400_000


def test_a_smaller_image_is_suggested_and_would_fit():
    (advice,) = judge().advice
    assert "80 x 80 instead of 128 x 128" in advice
    share = (80 / 128) ** 2
    small = dataclasses.replace(CNN, peak=dataclasses.replace(PEAK, elements=int(400_000 * share)))
    assert judge(small).verdict == "fits"


def test_weights_beyond_the_flash_ask_for_fewer_channels():
    large = dataclasses.replace(CNN, tensors=(TensorFact("w", "float32", (2000, 2000), 16_000_000),))
    verdict = judge(large)
    assert len(verdict.reasons) == 2
    assert "model and code take" in verdict.reason
    assert "of the channels" in verdict.advice[0]
    assert not verdict.climbable


def test_code_counts_against_the_flash():
    verdict = judge()
    assert term(verdict, "M_flash").value == term(verdict, "file").value + EDGE.overhead.code_bytes


@pytest.mark.parametrize(("floor", "expected"), [(100_000, True), (350_000, False)])
def test_another_order_is_offered_only_where_single_operators_fit(floor, expected):
    facts = dataclasses.replace(CNN, peak=dataclasses.replace(PEAK, floor=floor))
    verdict = judge(facts)
    assert any("--fit" in sentence for sentence in verdict.advice) is expected


def test_int16_activations_take_twice_the_memory_and_int8_is_what_would_fit():
    facts = dataclasses.replace(CNN, peak=dataclasses.replace(PEAK, elements=150_000))
    verdict = judge(facts, quant="int16x8")
    assert term(verdict, "M_activations").value == 300_000
    assert "--quant int8" in [other.change for other in verdict.alternatives]


def test_latency_is_multiply_accumulates_times_cycles():
    verdict = judge()
    m4 = next(k for k in cycles.known() if (k.core, k.library) == ("cortex-m4", "cmsis-nn"))
    expected = 1_000_000 * m4.cycles["conv"] + 100_000 * m4.cycles["depthwise"]
    # ReLU is folded into the convolution; two operators are called.
    assert verdict.predicted.latency_ms == pytest.approx(1e3 * (expected / 64e6 + 2 * 20e-6))
    assert term(verdict, "latency, cmsis-nn").value < term(verdict, "latency, reference").value
    assert "multiply-accumulates x cycles" in term(verdict, "latency, cmsis-nn").formula


def test_work_that_is_unknown_gives_no_latency():
    odd = dataclasses.replace(CNN, ops=(*CNN.ops, OpFact("x", "Fancy", "unknown", None)))
    assert judge(odd).predicted.latency_ms is None


def test_every_core_of_a_device_has_a_table_and_every_table_a_source():
    devices = [device for device in registry.devices() if device.core]
    assert devices
    for device in devices:
        assert device.clock_hz
        assert cycles.of_device(device), device.core
    for kernels in cycles.known():
        assert kernels.sources
        assert kernels.estimates <= set(cycles.CLASSES)


def test_a_board_with_linux_holds_weights_in_memory_and_has_no_flash_limit():
    verdict = judge(device="rpi-zero2w")
    assert verdict.verdict == "fits"
    assert term(verdict, "M_model").value > 0
    assert not [each for each in verdict.terms if each.name == "flash"]
    assert term(verdict, "runtime").value > 12_000_000


def test_an_operator_without_a_kernel_is_refused_from_the_facts_alone():
    odd = dataclasses.replace(CNN, ops=(*CNN.ops, OpFact("block.3", "aten.gelu.default", "elementwise", 8)))
    with pytest.raises(Unsupported, match=r"aten\.gelu\.default \(in block\.3\)"):
        plan.refuse_operators(odd, EDGE)
    plan.refuse_operators(CNN, EDGE)


@pytest.mark.parametrize(("elements", "expected"), [(300_000, True), (500_000, False)])
def test_the_ladder_is_climbed_up_to_twice_the_memory(elements, expected):
    peak = dataclasses.replace(PEAK, elements=elements, floor=elements)
    assert judge(dataclasses.replace(CNN, peak=peak)).climbable is expected
