"""A language model's own terms of the verdict: KV cache, activations, prefill and decoding."""

from __future__ import annotations

from dataclasses import replace

from . import latency, memory
from .device import Rate
from .facts import BLOCK_BITS, DTYPE_BITS, LlmFacts
from .figures import count, size
from .verdict import Case, Predicted, Term

PREFILL_CHUNK = 512
"""Positions that a runtime sends through at once while it reads a prompt (llama.cpp's micro-batch)."""


DEFAULT_PROMPT = 512
DEFAULT_GENERATED = 256


def at_context(case: Case, context: int) -> Case:
    """The case with another context: prompt as asked for, or 512 and at most half; then up to 256 tokens."""
    prompt = case.asked_prompt or max(1, min(DEFAULT_PROMPT, context // 2))
    generated = max(1, min(DEFAULT_GENERATED, context - prompt))
    return replace(case, context=context, prompt=prompt, generated=generated)


def _llm(case: Case) -> LlmFacts:
    if case.facts.llm is None:
        raise ValueError("the model is no language model")
    return case.facts.llm


def kv_term(case: Case) -> Term:
    """M_KV of the whole batch at the full context."""
    llm, bits = _llm(case), {**DTYPE_BITS, **BLOCK_BITS}[case.scheme.kv]
    value = memory.kv_bytes(llm.layers, llm.kv_heads, llm.head_dim, case.batch, case.context, bits)
    return Term(
        "M_KV",
        value,
        "B",
        f"2 x {llm.layers} layers x {llm.kv_heads} KV heads x {llm.head_dim} x batch {case.batch}"
        f" x {case.context} tokens x {bits / 8:g} B",
    )


def decoder_activations(case: Case) -> Term:
    """M_activations while the prompt is read, an estimate."""
    tokens = min(case.prompt, PREFILL_CHUNK)
    value = memory.llm_activation_bytes(_llm(case), case.batch, tokens, case.scheme.activations)
    return Term(
        "M_activations",
        value,
        "B",
        f"batch {case.batch} x {tokens} positions at once in {case.scheme.activations}, and the logits",
        True,
    )


def decoder_latency(case: Case) -> tuple[list[Term], Predicted]:
    """The terms of time: prefill, one decoded token, and tokens per second."""
    llm, device = _llm(case), case.device
    read = memory.decode_counts(case.counts, llm)
    weights = memory.stored_bytes(read, case.scheme)
    if case.size is not None:
        # The exporter counted all weights; the share that a token reads follows from the scheme's bits.
        weights *= case.size.tensor_bytes / memory.stored_bytes(case.counts, case.scheme)
    rate = device.rate(case.scheme.compute)
    prefill = _prefill(case, read.elements, weights, rate)
    decode = _decode(case, read.elements, weights, rate)
    speed = Term("tok/s", None, "tok/s", "cannot be known without prefill and decode")
    if prefill.value is not None and decode.value is not None:
        value = latency.tokens_per_second(case.batch, case.generated, prefill.value / 1e3, decode.value / 1e3)
        speed = Term(
            "tok/s",
            value,
            "tok/s",
            f"batch {case.batch} x {case.generated} tokens / (prefill + {case.generated} x decode)",
            True,
        )
    predicted = Predicted(prefill_ms=prefill.value, decode_ms=decode.value, tokens_per_second=speed.value)
    return [prefill, decode, speed], predicted


def _prefill(case: Case, elements: int, weights: float, rate: Rate | None) -> Term:
    bandwidth = case.device.bandwidth
    if rate is None or bandwidth is None:
        return Term("prefill", None, "ms", _lacking(case, rate))
    flops = latency.prefill_flops(elements, _llm(case), case.batch, case.prompt)
    compute = latency.compute_seconds(flops, rate.ops, latency.EFFICIENCY["gemm"])
    value = latency.op_seconds(compute, latency.memory_seconds(weights, bandwidth), 0.0)
    return Term(
        "prefill",
        value * 1e3,
        "ms",
        f"max({count(flops)} FLOP / ({count(rate.ops)}/s {rate.dtype} x {latency.EFFICIENCY['gemm']:g}),"
        f" {size(weights)} / {size(bandwidth)}/s)",
        True,
    )


def _decode(case: Case, elements: int, weights: float, rate: Rate | None) -> Term:
    """(weight bytes + KV bytes) / bandwidth, or the arithmetic where that takes longer and is known."""
    bandwidth, kv = case.device.bandwidth, kv_term(case).value or 0.0
    if bandwidth is None:
        return Term("decode", None, "ms", _lacking(case, rate))
    moving = latency.decode_seconds(weights, kv, bandwidth)
    formula = f"(weights {size(weights)} + KV {size(kv)}) / {size(bandwidth)}/s"
    if rate is None:
        return Term(
            "decode", moving * 1e3, "ms", f"{formula}; arithmetic left out: {_lacking(case, rate)}", True
        )
    flops = latency.decode_flops(elements, _llm(case), case.batch, case.context)
    computing = latency.compute_seconds(flops, rate.ops, latency.EFFICIENCY["gemm"])
    if computing > moving:
        formula = f"{count(flops)} FLOP / ({count(rate.ops)}/s {rate.dtype} x {latency.EFFICIENCY['gemm']:g})"
    return Term("decode", max(moving, computing) * 1e3, "ms", formula, True)


def _lacking(case: Case, rate: Rate | None) -> str:
    lacking = [f"a rate of {case.device.name} for {case.scheme.compute}"] if rate is None else []
    if case.device.bandwidth is None:
        lacking.append(f"the bandwidth of {case.device.name}")
    return f"cannot be known without {' and '.join(lacking)}"
