"""Memory formulas: the document's worked example, how weights are sorted, and properties that always hold."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.targets import memory, registry
from modelport.targets.facts import LlmFacts, ModelFacts, TensorFact

LLAMA_7B = LlmFacts("LlamaForCausalLM", 32, 4096, 32, 32, 128, 11008, 32000, 4096)


def facts(*tensors: tuple[str, str, tuple[int, ...]], llm: LlmFacts | None = None) -> ModelFacts:
    found = tuple(TensorFact(name, dtype, shape, 8) for name, dtype, shape in tensors)
    return ModelFacts("huggingface", "m", "M", found, (), (), llm=llm)


def test_worked_example_kv_cache_of_llama_7b_at_4096_tokens_is_2_1_gb():
    value = memory.kv_bytes(32, 32, 128, batch=1, tokens=4096, bits=16)
    assert value == 2 * 32 * 32 * 128 * 4096 * 2
    assert value / 1e9 == pytest.approx(2.1, abs=0.05)


def test_worked_example_weights_of_llama_7b():
    assert memory.dense_bytes(7e9, 16) == 14e9
    assert memory.dense_bytes(7e9, 4) == 3.5e9


def test_inference_memory_is_the_sum_of_its_three_parts():
    assert memory.inference_bytes(1.0, 2.0, 4.0) == 7.0


def test_weights_are_sorted_by_dtype_rank_and_name():
    counts = memory.count_weights(
        facts(
            ("bert.embeddings.word_embeddings.weight", "float32", (100, 8)),
            ("encoder.query.weight", "float32", (8, 8)),
            ("encoder.query.bias", "float32", (8,)),
            ("stem.weight", "float16", (4, 3, 2, 2)),
            ("position_ids", "int64", (1, 512)),
        )
    )
    assert counts == memory.WeightCounts(matrices=64, embeddings=800, convs=48, vectors=8, fixed_bytes=8)
    assert counts.elements == 920


def test_a_language_model_has_heads_by_vocabulary_and_experts_that_are_no_convolutions():
    llm = dataclasses.replace(LLAMA_7B, vocab=100, hidden=8)
    counts = memory.count_weights(
        facts(
            ("transformer.wte.weight", "bfloat16", (100, 8)),
            ("output.weight", "bfloat16", (100, 8)),
            ("layers.0.mlp.experts.up", "bfloat16", (4, 8, 8)),
            llm=llm,
        )
    )
    assert counts == memory.WeightCounts(matrices=256, embeddings=1600, experts=256)


def test_decoding_reads_one_vocabulary_sized_matrix_whether_tied_or_not():
    llm = dataclasses.replace(LLAMA_7B, vocab=100, hidden=8)
    tied, untied = memory.WeightCounts(5, 800, 0, 1), memory.WeightCounts(5, 1600, 0, 1)
    assert (
        memory.decode_counts(tied, llm)
        == memory.decode_counts(untied, llm)
        == memory.WeightCounts(5, 800, 0, 1)
    )


def test_groups_that_a_scheme_leaves_out_keep_their_own_bits():
    counts = memory.WeightCounts(matrices=8000, embeddings=800, convs=80, vectors=8, fixed_bytes=3)
    written = registry.find_target("server-cpu").scheme("int4-weight")
    scheme = dataclasses.replace(written, embedding_bits=32, conv_bits=32)
    expected = 8000 * scheme.weight_bits / 8 + 800 * 4 + 80 * 4 + 8 * 4 + 3
    assert memory.stored_bytes(counts, scheme) == pytest.approx(expected)


def test_weights_that_the_runtime_expands_take_more_memory_than_file():
    counts = memory.WeightCounts(matrices=1000)
    scheme = registry.find_target("server-cpu").scheme("fp16")
    assert memory.stored_bytes(counts, scheme) == 2000
    assert memory.resident_bytes(counts, scheme) == 4000


SCHEMES = [(target, scheme) for target in registry.targets() for scheme in target.schemes.values()]
elements = st.integers(0, 10**12)
any_counts = st.builds(memory.WeightCounts, elements, elements, elements, elements, elements)


@given(any_counts, st.integers(1, 10**9), st.sampled_from(SCHEMES))
def test_more_weights_never_take_less(counts, more, pair):
    _, scheme = pair
    for group in ("matrices", "embeddings", "convs", "vectors", "fixed_bytes"):
        larger = dataclasses.replace(counts, **{group: getattr(counts, group) + more})
        assert memory.stored_bytes(larger, scheme) >= memory.stored_bytes(counts, scheme)
        assert memory.resident_bytes(larger, scheme) >= memory.resident_bytes(counts, scheme)


@given(any_counts, st.sampled_from(SCHEMES), st.floats(0.5, 64), st.floats(0.5, 64))
def test_fewer_bits_are_never_larger(counts, pair, one, other):
    low, high = sorted((one, other))
    _, scheme = pair
    narrow, wide = (dataclasses.replace(scheme, weight_bits=bits) for bits in (low, high))
    assert memory.stored_bytes(counts, narrow) <= memory.stored_bytes(counts, wide)


@given(any_counts, st.sampled_from(SCHEMES))
def test_the_file_is_never_smaller_than_its_narrowest_group_says(counts, pair):
    _, scheme = pair
    groups = (scheme.weight_bits, scheme.conv_bits, scheme.embedding_bits, scheme.vector_bits)
    narrowest = min(bits for bits in groups if bits)
    assert memory.stored_bytes(counts, scheme) >= counts.elements * narrowest / 8 * (1 - 1e-9)


@given(
    st.integers(1, 200), st.integers(1, 128), st.integers(1, 256), st.integers(1, 64), st.integers(1, 10**6)
)
def test_the_kv_cache_grows_in_proportion_to_batch_and_tokens(layers, heads, dim, batch, tokens):
    one = memory.kv_bytes(layers, heads, dim, 1, 1, 16)
    assert memory.kv_bytes(layers, heads, dim, batch, tokens, 16) == one * batch * tokens
