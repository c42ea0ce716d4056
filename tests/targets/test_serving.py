"""Serving: what each of several GPUs holds and sends, what fits on it, and how fast it answers."""

import dataclasses
import json
import math
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import modelport
from llm_facts import CONFIGS, published, write_headers
from modelport import cli
from modelport.targets import latency, memory, parallel, registry, serving
from modelport.targets.card import read_card
from modelport.targets.device import Device
from modelport.targets.errors import UsageError
from modelport.targets.feasibility import judge
from modelport.targets.serving import Serving
from modelport.targets.verdict import Size

VLLM = registry.find_target("server-gpu-llm")
MODELS = {name: published(name) for name in CONFIGS}
GB = 10**9


def plan(model: str, device: str | Device = "a100-80gb", quant: str = "bf16", **asked) -> Serving:
    where = device if isinstance(device, Device) else registry.find_device(device, VLLM)
    return serving.plan(MODELS[model], VLLM, where, VLLM.scheme(quant), **asked)


def verdict(model: str, device: str | Device = "a100-80gb", quant: str = "bf16", **asked: int):
    where = device if isinstance(device, Device) else registry.find_device(device, VLLM)
    return judge(MODELS[model], VLLM, where, VLLM.scheme(quant), **asked)


def terms(model: str, device: str | Device = "a100-80gb", quant: str = "bf16", **asked: int):
    return {term.name: term for term in verdict(model, device, quant, **asked).terms}


# What each GPU holds


def test_the_models_have_as_many_weights_as_their_publishers_say():
    billions = {
        "llama-2-7b": 6.74, "llama-3-8b": 8.03, "llama-3-70b": 70.55, "llama-3.1-405b": 405.85,
        "qwen2.5-0.5b": 0.494, "mixtral-8x7b": 46.7, "qwen3-30b-a3b": 30.53, "phi-3-mini": 3.82, "gpt2": 0.124,
    }  # fmt: skip
    assert {name: facts.parameters / 1e9 for name, facts in MODELS.items()} == pytest.approx(
        billions, rel=5e-3
    )


def test_matrices_are_split_and_norms_are_not():
    held = parallel.held_weights(MODELS["llama-3-70b"], 8)
    per_layer = 2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 8192 * 28672
    assert held.matrices == 80 * per_layer // 8
    assert held.embeddings == 2 * 128256 * 8192 // 8
    assert held.vectors == 161 * 8192


def test_key_value_heads_are_repeated_where_there_are_fewer_than_gpus():
    facts = MODELS["llama-3-70b"]
    eight, sixteen = (parallel.held_weights(facts, gpus).matrices for gpus in (8, 16))
    repeated = 80 * 2 * 1024 * 8192 // 8
    assert sixteen == (eight - repeated) // 2 + repeated
    kv = [plan("llama-3-70b", tensor_parallel=gpus).kv_bytes for gpus in (4, 8, 16)]
    assert kv[0] == 2 * kv[1]
    assert kv[1] == kv[2] == 2 * 80 * 1 * 128 * 4096 * 2


def test_fused_matrices_are_split_by_heads_and_the_vocabulary_is_padded():
    # Phi-3 and GPT-2 keep q, k and v in one matrix; GPT-2's 50257 rows become 50304.
    phi = parallel.held_weights(MODELS["phi-3-mini"], 4)
    assert phi.matrices == 32 * (3 * 3072 * 3072 + 3072 * 3072 + 3 * 3072 * 8192) // 4
    gpt2 = parallel.held_weights(MODELS["gpt2"], 2)
    assert gpt2.embeddings == 50304 // 2 * 768 + 1024 * 768


def test_routers_are_held_whole_and_experts_are_split():
    held = parallel.held_weights(MODELS["mixtral-8x7b"], 4)
    experts = 32 * 8 * 3 * 4096 * 14336
    assert held.experts == experts // 4
    attention = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096)
    assert held.matrices == (experts + attention) // 4 + 32 * 8 * 4096


@given(st.sampled_from(sorted(MODELS)), st.data())
def test_the_gpus_together_hold_the_model_at_least_once_and_hardly_more(model, data):
    facts = MODELS[model]
    gpus = data.draw(st.sampled_from(parallel.sizes(facts.llm)))
    whole, held = memory.count_weights(facts), parallel.held_weights(facts, gpus)
    assert gpus * held.elements >= whole.elements
    repeated = gpus * (held.vectors + facts.llm.context * facts.llm.hidden * ("gpt2" in model))
    shared = facts.llm.layers * 2 * facts.llm.head_dim * facts.llm.hidden
    routers = facts.llm.layers * facts.llm.experts * facts.llm.hidden
    padding = 2 * facts.llm.hidden * (64 + gpus)
    assert gpus * held.elements <= whole.elements + repeated + gpus * (shared + routers) + padding


@pytest.mark.parametrize("model", sorted(MODELS))
def test_one_gpu_is_the_single_device(model):
    facts = MODELS[model]
    assert parallel.held_weights(facts, 1) == memory.count_weights(facts)
    assert parallel.geometry(facts.llm, 1) == facts.llm
    found, judged = plan(model), verdict(model)
    assert judged == verdict(model, tensor_parallel=1)
    figures = judged.predicted
    assert (found.prefill_ms, found.decode_ms) == (figures.prefill_ms, figures.decode_ms)
    assert found.communication_ms == 0.0
    parts = found.weight_bytes + found.kv_bytes + found.activation_bytes + found.runtime_bytes
    assert parts == pytest.approx(figures.peak_memory_bytes, abs=4)


# Which splits there are


@pytest.mark.parametrize(
    ("model", "gpus", "why", "known"),
    [
        ("llama-2-7b", 3, "32 attention heads", "1, 2, 4, 8, 16, 32"),
        ("qwen2.5-0.5b", 7, "2 KV heads", "1, 2"),
        ("qwen2.5-0.5b", 14, "feed-forward width of 4864", "1, 2"),
        ("gpt2", 8, "12 attention heads", "1, 2, 3, 4, 6, 12"),
    ],
)
def test_a_split_that_vllm_refuses_is_refused_naming_those_that_work(model, gpus, why, known):
    with pytest.raises(UsageError) as caught:
        plan(model, tensor_parallel=gpus)
    assert why in caught.value.fact
    assert caught.value.where == "--tensor-parallel"
    assert caught.value.mend.endswith(known)


@pytest.mark.parametrize("gpus", [0, -2])
def test_no_gpus_are_wrong_usage(gpus):
    with pytest.raises(UsageError, match="from 1 on"):
        plan("llama-2-7b", tensor_parallel=gpus)


def test_a_target_that_serves_nobody_runs_on_one_device():
    target = registry.find_target("local-llm")
    device, scheme = registry.find_device(None, target), target.scheme("q4_k_m")
    with pytest.raises(UsageError, match="one device"):
        judge(MODELS["llama-2-7b"], target, device, scheme, tensor_parallel=2)
    with pytest.raises(UsageError, match="serves no language model"):
        serving.plan(MODELS["llama-2-7b"], target, device, scheme)


def test_a_split_through_weights_that_share_a_scale_does_not_fit_and_others_are_named():
    # 11008 = 86 x 128: halves are whole groups of 128, quarters are not.
    assert verdict("llama-2-7b", quant="w4a16-gptq", tensor_parallel=2).verdict == "fits"
    judged = verdict("llama-2-7b", quant="w4a16-gptq", tensor_parallel=4)
    assert judged.verdict == "does not fit"
    assert "11008 split over 4 GPUs leaves 2752" in judged.reason
    assert any(other.change == "--tensor-parallel 2" for other in judged.alternatives)
    assert verdict("llama-2-7b", quant="w8a8-int8", tensor_parallel=4).verdict == "fits"
    # Two of these are too small, and four or eight would cut groups.
    small = Device("small", "Small", "gpu", memory_bytes=4_600_000_000, bandwidth=1e12)
    fits = [plan("llama-2-7b", small, "w8a8-int8", context=512, tensor_parallel=n).verdict for n in (2, 4)]
    assert fits == ["does not fit", "fits"]
    assert plan("llama-2-7b", small, "w8a8-int8", context=512).fewest_gpus == 4
    smaller = dataclasses.replace(small, memory_bytes=4_000_000_000)
    cut = plan("llama-2-7b", smaller, "w4a16-gptq", context=512, tensor_parallel=4)
    assert sum((cut.weight_bytes, cut.kv_bytes, cut.activation_bytes, cut.runtime_bytes)) < cut.usable_bytes
    assert (cut.verdict, cut.fewest_gpus) == ("does not fit", None)


# What fits


@pytest.mark.parametrize("device", ["a100-80gb", "h100"])
def test_llama_3_70b_in_16_bits_needs_two_cards_of_80_gb(device):
    found = {gpus: plan("llama-3-70b", device, tensor_parallel=gpus) for gpus in (1, 2, 4, 8)}
    assert [found[gpus].verdict for gpus in found] == ["does not fit", "fits", "fits", "fits"]
    assert {each.fewest_gpus for each in found.values()} == {2}
    assert found[1].weight_bytes == pytest.approx(141.1 * GB, rel=1e-3)
    assert (found[1].longest_context, found[1].largest_batch, found[1].max_model_len) == (0, 0, None)


def test_a_size_that_the_exporter_counted_is_shared_out_like_the_weights():
    counted = {"bf16": Size(15_000_000_000, 14_900_000_000)}
    one, four = (plan("llama-2-7b", tensor_parallel=gpus, sizes=counted) for gpus in (1, 4))
    assert one.weight_bytes == 14_900_000_000
    guessed = plan("llama-2-7b", tensor_parallel=4).weight_bytes / plan("llama-2-7b").weight_bytes
    assert four.weight_bytes / one.weight_bytes == pytest.approx(guessed)
    assert four.longest_context > plan("llama-2-7b", tensor_parallel=2, sizes=counted).longest_context


def test_activations_are_reserved_for_what_goes_through_at_once_in_16_bits():
    most = VLLM.server.batched_tokens
    width = 2 * 4096 + 3 * 32 * 128 + 2 * 11008
    few, many = (plan("llama-2-7b", "b200", batch=batch, context=1024) for batch in (1, 16))
    assert few.activation_bytes == 1024 * width * 2 + 32000 * 4
    assert many.activation_bytes == most * width * 2 + 16 * 32000 * 4
    # A W8A8 model has 8-bit products, and 16 bits between them.
    assert plan("llama-2-7b", "b200", "w8a8-int8", context=1024).activation_bytes == few.activation_bytes
    half = plan("llama-2-7b", "b200", context=1024, tensor_parallel=2)
    assert half.activation_bytes == 1024 * (2 * 4096 + (width - 2 * 4096) // 2) * 2 + 32000 * 4


def test_more_gpus_are_among_the_alternatives():
    changes = {other.change: other for other in verdict("llama-3-70b").alternatives}
    other = changes["--tensor-parallel 2"]
    again = verdict("llama-3-70b", tensor_parallel=2)
    assert (other.tensor_parallel, other.memory_bytes) == (2, again.predicted.peak_memory_bytes)
    assert again.verdict == "fits"


def test_on_four_a100_llama_3_70b_holds_8192_tokens_of_four_sequences():
    found = plan("llama-3-70b", batch=4, context=8192, tensor_parallel=4)
    assert found.verdict == "fits"
    assert found.kv_bytes == 2 * 80 * 2 * 128 * 4 * 8192 * 2
    assert found.usable_bytes == int(85899345920 * 0.9)
    assert found.max_model_len == 8192


SERVED = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["llama-2-7b", "llama-3-8b", "mixtral-8x7b", "qwen3-30b-a3b"]),
        "device": st.sampled_from(["l4", "a100-40gb", "a100-80gb", "b200"]),
        "quant": st.sampled_from(["bf16", "w8a8-fp8", "w4a16-awq"]),
        "tensor_parallel": st.sampled_from([1, 2]),
        "batch": st.integers(1, 64),
        "context": st.integers(16, 20_000),
    }
)


@settings(max_examples=60, deadline=None)
@given(SERVED)
def test_the_longest_context_fits_and_one_block_more_does_not(asked):
    found = plan(**asked)
    assert found.longest_context % 16 == 0
    if found.longest_context:
        assert verdict(**{**asked, "context": found.longest_context}).verdict == "fits"
    assert verdict(**{**asked, "context": found.longest_context + 16}).verdict == "does not fit"
    assert (found.verdict == "fits") == (asked["context"] < found.longest_context + 16)


@settings(max_examples=60, deadline=None)
@given(SERVED)
def test_the_largest_batch_fits_and_one_sequence_more_does_not(asked):
    found = plan(**asked)
    if found.largest_batch:
        assert verdict(**{**asked, "batch": found.largest_batch}).verdict == "fits"
    assert verdict(**{**asked, "batch": found.largest_batch + 1}).verdict == "does not fit"
    assert (found.verdict == "fits") == (asked["batch"] <= found.largest_batch)


@settings(max_examples=60, deadline=None)
@given(SERVED, st.integers(1, 500), st.integers(1, 8))
def test_longer_contexts_and_larger_batches_need_more_and_leave_less(asked, longer, more):
    base = plan(**asked)
    long = plan(**{**asked, "context": asked["context"] + longer})
    wide = plan(**{**asked, "batch": asked["batch"] + more})
    for grown in (long, wide):
        assert grown.kv_bytes > base.kv_bytes
        assert grown.activation_bytes >= base.activation_bytes
        assert grown.decode_ms > base.decode_ms
    assert long.largest_batch <= base.largest_batch
    assert wide.longest_context <= base.longest_context


@settings(max_examples=40, deadline=None)
@given(SERVED)
def test_twice_the_gpus_hold_less_each_and_never_less_context(asked):
    one, two = (plan(**{**asked, "tensor_parallel": gpus}) for gpus in (1, 2))
    assert two.weight_bytes < one.weight_bytes
    assert 2 * two.weight_bytes >= one.weight_bytes
    assert two.kv_bytes * 2 == one.kv_bytes
    assert two.longest_context >= one.longest_context
    assert two.largest_batch >= one.largest_batch


def test_the_context_that_the_server_is_told():
    assert plan("llama-2-7b").max_model_len == 4096, "the model's own"
    assert plan("llama-2-7b", "t4", "fp16").max_model_len is None, "13.5 GB and 2.1 GB of runtime do not fit"
    tight = plan("llama-3.1-405b", "h100", "w8a8-fp8", batch=8, tensor_parallel=8)
    assert tight.max_model_len == tight.longest_context < 131072
    assert plan("llama-2-7b", context=2000).max_model_len == 2000, "what was asked for"
    assert plan("llama-2-7b", context=9000).max_model_len == 4096, "not more than the model was made for"


def test_on_cards_of_unknown_memory_or_link_only_what_is_known_is_told():
    blind = plan("llama-2-7b", Device("blind", "Blind", "gpu", bandwidth=1e12, peak={"bfloat16": 1e14}))
    assert blind.verdict == "unknown"
    assert (blind.usable_bytes, blind.longest_context, blind.largest_batch) == (None, None, None)
    assert blind.decode_ms is not None
    alone = Device("alone", "Alone", "gpu", memory_bytes=80 * GB, bandwidth=1e12, peak={"bfloat16": 1e14})
    found = plan("llama-2-7b", alone, tensor_parallel=2)
    assert found.verdict == "fits"
    assert (found.prefill_ms, found.decode_ms, found.tokens_per_second) == (None, None, None)
    formula = terms("llama-2-7b", alone, tensor_parallel=2)["decode"].formula
    assert "link bandwidth of alone" in formula


# How fast


def test_communication_is_all_reduce_bytes_by_ring_over_the_link_and_the_steps_of_each():
    device = registry.find_device("a100-80gb")
    assert (device.link_bandwidth, device.launch_us) == (300e9, 4)
    term = terms("llama-3-70b", tensor_parallel=4, batch=2)["T_communication, decode"]
    nbytes = 2 * 8192 * 2
    by_hand = (2 * 80 + 1) * (nbytes * 2 * 3 / 4 / 300e9 + (4 + 2 * 3 * 1) * 1e-6)
    assert term.value == pytest.approx(by_hand * 1e3)
    assert term.formula == "161 all-reduces x (2 positions x 8192 x 2 B x 2(4 - 1)/4 / 300 GB/s + 10 us)"
    prompt = terms("llama-3-70b", tensor_parallel=4, batch=2, sequence=512)["T_communication, prefill"]
    assert prompt.value == pytest.approx(161e3 * (512 * nbytes * 2 * 3 / 4 / 300e9 + 10e-6))


def test_two_h100_sum_a_small_message_in_six_microseconds():
    # As measured in github.com/NVIDIA/nccl/issues/1259.
    assert parallel.ring_us(2, registry.find_device("h100").launch_us) == 6


@given(st.integers(1, 64), st.integers(1, 1 << 40))
def test_a_ring_sends_less_than_twice_the_bytes(gpus, nbytes):
    sent = parallel.ring_bytes(nbytes, gpus)
    assert 0 <= sent < 2 * nbytes
    assert parallel.ring_bytes(nbytes, gpus + 1) > sent
    assert parallel.ring_bytes(nbytes, 1) == 0


@settings(max_examples=40, deadline=None)
@given(SERVED)
def test_tokens_a_second_follow_the_documents_formula(asked):
    found = plan(**asked)
    prompt = max(1, min(512, asked["context"] // 2))
    generated = max(1, min(256, asked["context"] - prompt))
    expected = latency.tokens_per_second(
        asked["batch"], generated, found.prefill_ms / 1e3, found.decode_ms / 1e3
    )
    assert found.tokens_per_second == pytest.approx(expected)
    assert found.decode_tokens_per_second == pytest.approx(asked["batch"] / found.decode_ms * 1e3)
    assert found.prefill_tokens_per_second == pytest.approx(asked["batch"] * prompt / found.prefill_ms * 1e3)
    assert 0 <= found.communication_ms < found.decode_ms


def test_decoding_reads_what_one_gpu_holds_launches_kernels_and_waits_for_the_exchange():
    device = registry.find_device("h100")
    found = plan("llama-3-70b", device, tensor_parallel=8)
    table = 128256 // 8 * 8192 * 2
    reading = (found.weight_bytes - table + found.kv_bytes) / device.bandwidth
    launches = 80 * VLLM.server.kernels_per_layer * device.launch_us * 1e-6
    assert found.decode_ms == pytest.approx((reading + launches) * 1e3 + found.communication_ms)
    quiet = dataclasses.replace(device, launch_us=None)
    formula = terms("llama-3-70b", quiet)["decode"].formula
    assert "kernels" not in formula


PUBLISHED = [
    # TensorRT-LLM 0.5 and 0.6, docs/source/performance.md; its caches were 8-bit, ours are counted in 16.
    ("llama-2-7b", "h100", "w8a8-fp8", 1, 64, 128, 128, 9193),
    ("llama-2-7b", "h100", "w8a8-fp8", 1, 64, 128, 2048, 5367),
    ("llama-2-7b", "h100", "w8a8-fp8", 1, 64, 2048, 128, 2058),
    ("llama-2-7b", "h100", "w8a8-fp8", 1, 32, 2048, 2048, 2230),
    ("llama-2-70b", "h100", "w8a8-fp8", 4, 64, 128, 128, 3317),
    ("llama-2-70b", "h100", "w8a8-fp8", 4, 64, 128, 2048, 2616),
    ("llama-2-70b", "h100", "w8a8-fp8", 4, 64, 2048, 128, 843),
    ("llama-2-70b", "h100", "w8a8-fp8", 4, 64, 2048, 2048, 1583),
    # vLLM 0.23, johnmusgrave.com: throughput-latency sweep on an A100 of 40 GB.
    ("llama-3-8b", "a100-40gb", "bf16", 1, 1, 1024, 128, 75),
    # vLLM's pull request 2192: 14.57 s for 64 and 17.51 s for 32 sequences of 256 tokens.
    ("llama-2-70b", "a100-80gb", "fp16", 4, 64, 256, 256, 64 * 256 / 14.57),
    ("llama-2-7b", "t4", "fp16", 2, 32, 256, 256, 32 * 256 / 17.51),
    # LMDeploy 0.2, docs/en/benchmark/a100_fp16.md.
    ("llama-2-7b", "a100-80gb", "fp16", 1, 1, 1, 128, 100),
    # NIM 1.8, docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance.
    ("llama-3-70b", "h100", "w8a8-fp8", 2, 1, 5000, 500, 51.7),
    ("llama-3-70b", "h100", "w8a8-fp8", 2, 5, 5000, 500, 218),
    ("llama-3-70b", "h100", "w8a8-fp8", 2, 25, 5000, 500, 623),
    # NeMo, docs.nvidia.com/nemo-framework/user-guide/latest/performance/llama.html: milliseconds for 20 tokens.
    ("llama-2-7b", "a100-80gb", "fp16", 1, 1, 128, 20, 20 / 0.2340),
    ("llama-2-7b", "a100-80gb", "fp16", 2, 1, 128, 20, 20 / 0.1717),
    ("llama-2-7b", "a100-80gb", "fp16", 4, 1, 128, 20, 20 / 0.1437),
    ("llama-2-7b", "h100", "fp16", 1, 1, 128, 20, 20 / 0.1538),
    ("llama-2-7b", "h100", "fp16", 1, 8, 128, 20, 160 / 0.1992),
    ("llama-2-7b", "h100", "fp16", 4, 1, 128, 20, 20 / 0.1074),
]
"""Model, card, scheme, GPUs, batch, tokens of prompt and answer, and the tokens a second that were measured."""


def test_tokens_a_second_are_near_what_was_published():
    ratios = []
    for model, card, quant, gpus, batch, prompt, answer, measured in PUBLISHED:
        facts = published("llama-3-70b", vocab_size=32000) if model == "llama-2-70b" else MODELS[model]
        # The cache grows while the answer is written: half of it stands there on average.
        judged = judge(
            facts, VLLM, registry.find_device(card), VLLM.scheme(quant), batch=batch, sequence=prompt,
            context=prompt + answer // 2, tensor_parallel=gpus, alternatives=False,
        ).predicted  # fmt: skip
        predicted = latency.tokens_per_second(batch, answer, judged.prefill_ms / 1e3, judged.decode_ms / 1e3)
        ratios.append(predicted / measured)
    assert min(ratios) > 0.7
    assert 1.1 < statistics.median(ratios) < 1.5
    assert max(ratios) < 2.3


def test_a_slower_link_makes_a_slower_server():
    fast = registry.find_device("a100-80gb")
    slow = dataclasses.replace(fast, link_bandwidth=fast.link_bandwidth / 20)
    assert (
        plan("llama-3-70b", slow, tensor_parallel=2).decode_ms
        > plan("llama-3-70b", fast, tensor_parallel=2).decode_ms
    )


def test_a_card_without_8_bit_floats_multiplies_in_16_bits():
    ampere = terms("llama-2-7b", "a100-80gb", "w8a8-fp8")["prefill"]
    assert "float16" in ampere.formula
    assert ampere.value == pytest.approx(terms("llama-2-7b", "a100-80gb", "fp16")["prefill"].value)
    assert "float8_e4m3" in terms("llama-2-7b", "h100", "w8a8-fp8")["prefill"].formula


def test_every_gpu_of_the_catalogue_has_a_link():
    for device in registry.devices_for(VLLM):
        assert 1e10 <= device.link_bandwidth <= 1e12, device.name


# Mixtures of experts


def test_a_token_reads_the_experts_that_it_is_sent_to():
    assert memory.experts_read(8, 2, 1) == 0.25
    assert memory.experts_read(8, 2, 2) == pytest.approx(1 - 0.75**2)
    assert memory.experts_read(8, 2, 10_000) == 1.0
    assert memory.experts_read(0, 0, 1) == memory.experts_read(8, 8, 1) == 1.0
    read = memory.decode_counts(memory.count_weights(MODELS["mixtral-8x7b"]), MODELS["mixtral-8x7b"].llm)
    # Mixtral 8x7B is said to use 12.9 billion weights a token; the input table is not read whole.
    assert read.elements + 32000 * 4096 == pytest.approx(12.9e9, rel=0.01)
    qwen = memory.decode_counts(memory.count_weights(MODELS["qwen3-30b-a3b"]), MODELS["qwen3-30b-a3b"].llm)
    assert qwen.elements + 151936 * 2048 == pytest.approx(3.3e9, rel=0.02)


@given(st.integers(2, 256), st.data())
def test_more_tokens_read_more_experts_and_never_more_than_all(experts, data):
    per_token = data.draw(st.integers(1, experts - 1))
    tokens = data.draw(st.integers(1, 1000))
    one, more = (memory.experts_read(experts, per_token, count) for count in (tokens, tokens + 1))
    assert per_token / experts <= one + 1e-12
    assert one <= more <= 1
    assert one <= min(1, tokens * per_token / experts) + 1e-12


def test_a_mixture_decodes_faster_than_all_its_experts_would_and_says_how_it_was_counted():
    facts = MODELS["mixtral-8x7b"]
    unknown = dataclasses.replace(facts, llm=dataclasses.replace(facts.llm, experts_per_token=0))
    device, scheme = registry.find_device("b200"), VLLM.scheme("bf16")
    sparse, dense = (judge(each, VLLM, device, scheme) for each in (facts, unknown))
    assert sparse.predicted.decode_ms < dense.predicted.decode_ms / 2.5
    assert sparse.predicted.peak_memory_bytes == dense.predicted.peak_memory_bytes
    assert any("8 experts, of which a token is sent to 2" in said for said in sparse.basis)
    assert any("upper bound" in said for said in dense.basis)


# The card


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("memory_share = 1.5\nbatched_tokens = 1", "server.memory_share"),
        ("memory_share = 0.9", "server.batched_tokens"),
        ("memory_share = 0.9\nbatched_tokens = 8.5", "server.batched_tokens"),
        ("memory_share = 0.9\nbatched_tokens = 8\nblocks = 2", "server.blocks"),
    ],
)
def test_a_wrong_server_names_file_and_key(tmp_path: Path, line: str, key: str):
    text = Path(VLLM.path).read_text()
    before, _, after = text.partition("[server]")
    card = tmp_path / "card.toml"
    card.write_text(f"{before}[server]\n{line}\n\n[overhead]{after.partition('[overhead]')[2]}")
    with pytest.raises(UsageError) as caught:
        read_card(card)
    assert caught.value.where == f"{card}: {key}"


# From the terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_headers(tmp_path_factory.mktemp("models") / "qwen2.5-0.5b", "qwen2.5-0.5b")


def check(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.modelport, ["check", *arguments], env={"COLUMNS": "80"})
    return done.exit_code, done.output


def test_the_json_has_a_plan_for_every_card_and_what_crosses_to_the_exporter_is_the_first(folder: Path):
    code, printed = check(str(folder), "-t", "vllm", "--device", "l4", "--tensor-parallel", "2", "--json")
    found = json.loads(printed)
    assert code == 0
    assert next(iter(found["serving"])) == "l4"
    assert set(found["serving"]) == {device.name for device in registry.devices_for(VLLM)}
    assert found["serving"]["l4"]["tensor_parallel"] == 2
    assert found["serving"]["l4"]["max_model_len"] == 32768
    checked = modelport.check(folder, target="vllm", device="l4", tensor_parallel=2)
    assert dataclasses.asdict(checked.serving["l4"]) == found["serving"]["l4"]
    assert all(math.isfinite(value) for value in found["serving"]["l4"].values() if isinstance(value, float))


def test_the_table_goes_into_eighty_columns_without_cutting_a_figure(folder: Path):
    code, printed = check(str(folder), "-t", "vllm", "--tensor-parallel", "2", "--batch", "8")
    table = printed[printed.index("Serving with") :]
    assert code == 0
    assert "tensor parallel 2, batch 8, context 4096; --max-model-len 32768" in table
    assert "…" not in table
    assert len([line for line in table.splitlines() if line.strip().startswith("a100-")]) == 2


def test_a_wrong_split_is_one_clear_line(folder: Path):
    code, printed = check(str(folder), "-t", "vllm", "--tensor-parallel", "4")
    assert code == 2
    assert printed.splitlines() == [
        "error: --tensor-parallel: 14 attention heads cannot be split evenly over 4 GPUs",
        "  It can be split over 1, 2",
    ]
    code, printed = check(str(folder), "-t", "local-llm", "--tensor-parallel", "2")
    assert (code, "local-llm does not read it" in printed) == (2, True)
    code, printed = check(str(folder), "-t", "vllm", "--tensor-parallel", "0")
    assert (code, "not above zero" in printed) == (2, True)
