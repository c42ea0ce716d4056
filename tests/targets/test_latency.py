"""Latency formulas: the document's worked examples, the roofline, and what is said when something is unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.targets import latency, registry
from modelport.targets.device import Device
from modelport.targets.facts import OP_CLASSES, LlmFacts, OpFact

BOX = Device("box", "Box", "gpu", memory_bytes=10**12, bandwidth=1e9, peak={"float32": 1e9, "int8": 4e9})
LLAMA_7B = LlmFacts("LlamaForCausalLM", 32, 4096, 32, 32, 128, 11008, 32000, 4096)
ANDROID = registry.find_target("android")
FP32, INT8, DYNAMIC = (ANDROID.scheme(name) for name in ("fp32", "int8", "int8-dynamic"))


def gemm(flops: int | None, weights: int = 0, activations: int = 0, kind: str = "Gemm") -> OpFact:
    return OpFact("g", kind, "gemm", flops, weights, activations)


def test_worked_example_llama_7b_in_fp16_at_2_tb_per_second_decodes_in_7_ms():
    assert latency.decode_seconds(7e9 * 2, 0, 2e12) == pytest.approx(7e-3)


def test_worked_example_llama_7b_in_int4_at_2_tb_per_second_decodes_in_1_75_ms():
    assert latency.decode_seconds(7e9 * 0.5, 0, 2e12) == pytest.approx(1.75e-3)


def test_the_documents_total_is_the_sum_of_its_three_terms():
    assert latency.total_seconds(1.0, 2.0, latency.communication_seconds(8, 2)) == 7.0
    assert latency.communication_seconds(8, None) == 0.0


def test_tokens_per_second_count_prefill_and_every_token_of_the_batch():
    assert latency.tokens_per_second(batch=2, generated=10, prefill=1.0, decode=0.1) == 10.0


def test_decode_flops_are_two_per_weight_and_attention_over_the_context():
    assert latency.decode_flops(7e9, LLAMA_7B, 1, 0) == 14e9
    assert latency.decode_flops(0, LLAMA_7B, 2, 10) == 2 * 4 * 32 * 4096 * 10


def test_prefill_of_one_token_and_one_decoded_token_agree_but_for_half_the_attention():
    one = latency.prefill_flops(7e9, LLAMA_7B, 1, 1)
    assert one == latency.decode_flops(7e9, LLAMA_7B, 1, 1) - 2 * 32 * 4096


def test_an_operator_takes_the_longer_of_computing_and_moving():
    compute_bound = latency.graph_time([gemm(600_000_000)], FP32, BOX, 1)
    assert compute_bound.roofline == pytest.approx(600e6 / (1e9 * latency.EFFICIENCY["gemm"]))
    memory_bound = latency.graph_time([gemm(10, weights=250_000_000)], FP32, BOX, 1)
    assert memory_bound.roofline == pytest.approx(1.0)


def test_an_operator_that_computes_and_moves_overlaps_the_two_and_pays_its_launch():
    device = Device("d", "D", "c", bandwidth=1e9, peak={"float32": 1e9}, launch_us=5.0)
    op = gemm(int(0.3e9 * latency.EFFICIENCY["gemm"]), weights=50_000_000)
    time = latency.graph_time([op, op], FP32, device, 1)
    assert time.roofline == pytest.approx(2 * (0.3 + 5e-6))
    assert time.memory == pytest.approx(0.4)
    assert time.compute == pytest.approx(2 * (0.3 + 5e-6))


def test_a_device_sustains_a_share_of_its_peak():
    half = Device("d", "D", "c", bandwidth=1e9, peak={"float32": 1e9}, sustained=0.5)
    full = Device("d", "D", "c", bandwidth=1e9, peak={"float32": 1e9})
    slow, fast = (latency.graph_time([gemm(10**9)], FP32, device, 1) for device in (half, full))
    assert slow.roofline == pytest.approx(2 * fast.roofline)


def test_batch_multiplies_activations_and_work_but_not_weights():
    ops = [gemm(100, weights=1000, activations=10)]
    one, four = (latency.graph_time(ops, FP32, BOX, batch) for batch in (1, 4))
    assert one.moved_bytes == 4040
    assert four.moved_bytes == 4160
    assert four.flops == 4 * one.flops


def test_products_of_activations_are_float_in_a_dynamic_scheme_and_int8_in_a_static_one():
    scores = OpFact("s", "MatMul", "matmul", 100)
    assert latency.op_dtype(scores, DYNAMIC) == "float32"
    assert latency.op_dtype(scores, INT8) == "int8"
    assert latency.op_dtype(gemm(1), DYNAMIC) == "int8"
    assert latency.op_dtype(OpFact("s", "Softmax", "softmax", 100), INT8) == "float32"


def test_a_missing_rate_is_named_and_nothing_is_invented():
    time = latency.graph_time(
        [gemm(100)], INT8, Device("d", "D", "c", bandwidth=1e9, peak={"float32": 1e9}), 1
    )
    assert (time.compute, time.roofline) == (None, None)
    assert time.memory is not None
    assert time.missing == ("a rate of d for int8",)


def test_an_operator_of_unknown_work_is_named():
    time = latency.graph_time([gemm(None, kind="Mystery"), gemm(5)], FP32, BOX, 1)
    assert (time.flops, time.roofline) == (None, None)
    assert time.missing == ("the FLOPs of Mystery",)


def test_a_reshape_of_unknown_work_does_no_harm():
    time = latency.graph_time([OpFact("r", "Reshape", "movement", None, 0, 10)], FP32, BOX, 1)
    assert time.roofline == pytest.approx(40e-9)


def test_without_a_graph_or_bandwidth_latency_is_not_known():
    assert latency.graph_time([], FP32, BOX, 1).missing
    blind = Device("d", "D", "c", peak={"float32": 1e9})
    assert latency.graph_time([gemm(5)], FP32, blind, 1).missing == ("the bandwidth of d",)


def test_every_class_of_operator_has_an_efficiency():
    assert set(latency.EFFICIENCY) == set(OP_CLASSES)
    assert all(0 < share <= 1 for share in latency.EFFICIENCY.values())


ops = st.lists(
    st.builds(
        OpFact, st.just("o"), st.just("K"), st.sampled_from(OP_CLASSES), st.integers(0, 10**12),
        st.integers(0, 10**9), st.integers(0, 10**9),
    ),
    min_size=1, max_size=20,
)  # fmt: skip


@given(ops, st.sampled_from([FP32, INT8, DYNAMIC]), st.integers(1, 64))
def test_the_documents_total_bounds_the_roofline_from_above(graph, scheme, batch):
    device = Device("d", "D", "c", bandwidth=1e9, peak={"float32": 1e9, "int8": 4e9}, launch_us=3.0)
    time = latency.graph_time(graph, scheme, device, batch)
    assert latency.total_seconds(time.compute, time.memory, 0.0) >= time.roofline * (1 - 1e-9)
    assert max(time.compute, time.memory) <= time.roofline * (1 + 1e-9) or time.roofline >= time.memory
