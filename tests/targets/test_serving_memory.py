"""What each of several GPUs holds of a served language model, and which splits there are."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.targets import memory, parallel, registry, serving
from modelport.targets.device import Device
from modelport.targets.errors import UsageError
from modelport.targets.feasibility import judge
from serving_cases import MODELS, plan, verdict

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
