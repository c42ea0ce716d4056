"""A language model's own terms of the verdict: KV cache, activations, prefill and decoding."""

from __future__ import annotations

from dataclasses import replace

from . import latency, memory, parallel
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


def split_over(case: Case, gpus: int) -> Case:
    """The case with the model split over `gpus` devices."""
    return replace(case, gpus=gpus, held=parallel.held_weights(case.facts, gpus))


def _llm(case: Case) -> LlmFacts:
    """The geometry of the part that each device computes."""
    if case.facts.llm is None:
        raise ValueError("the model is no language model")
    return parallel.geometry(case.facts.llm, case.gpus)


def kv_term(case: Case) -> Term:
    """M_KV of the whole batch at the full context, on each device."""
    llm, bits = _llm(case), {**DTYPE_BITS, **BLOCK_BITS}[case.scheme.kv]
    value = memory.kv_bytes(llm.layers, llm.kv_heads, llm.head_dim, case.batch, case.context, bits)
    heads = f"{llm.kv_heads} KV heads" + (f" on each of {case.gpus} GPUs" if case.gpus > 1 else "")
    return Term(
        "M_KV",
        value,
        "B",
        f"2 x {llm.layers} layers x {heads} x {llm.head_dim} x batch {case.batch}"
        f" x {case.context} tokens x {bits / 8:g} B",
    )


def decoder_activations(case: Case) -> Term:
    """M_activations while the prompt is read, an estimate.

    A server reserves them for as many positions as it ever sends through at once, whatever the prompt.
    """
    server, dtype = case.target.server, case.scheme.activations
    if server is None:
        tokens = min(case.prompt, PREFILL_CHUNK)
        positions, formula = case.batch * tokens, f"batch {case.batch} x {tokens} positions"
    else:
        positions = min(case.batch * case.context, server.batched_tokens)
        # What stands between 8-bit products is kept in 16 bits.
        formula, dtype = f"{positions} positions", _residual_dtype(case)
    whole = case.facts.llm.vocab if case.facts.llm else 0
    value = memory.llm_activation_bytes(_llm(case), case.batch, positions, dtype, whole)
    return Term("M_activations", value, "B", f"{formula} at once in {dtype}, and the logits", True)


def _residual_dtype(case: Case) -> str:
    """Dtype of the values between layers, which is what devices send each other."""
    return case.scheme.activations if DTYPE_BITS[case.scheme.activations] >= 16 else "bfloat16"


def communication_term(case: Case, what: str, tokens: int) -> Term | None:
    """T_communication of one pass of `tokens` positions a sequence; None on one device.

    All-reduce bytes / link bandwidth (the document's), the bytes by ring, and what an empty all-reduce takes.
    """
    llm, link, name = case.facts.llm, case.device.link_bandwidth, f"T_communication, {what}"
    if case.gpus == 1 or llm is None:
        return None
    if link is None:
        return Term(name, None, "ms", f"cannot be known without the link bandwidth of {case.device.name}")
    times, bits = parallel.all_reduces(llm), DTYPE_BITS[_residual_dtype(case)]
    nbytes = case.batch * tokens * llm.hidden * bits / 8
    sent = parallel.ring_bytes(nbytes, case.gpus)
    empty = parallel.ring_us(case.gpus, case.device.launch_us or 0.0)
    value = times * (latency.communication_seconds(sent, link) + empty * 1e-6)
    return Term(
        name,
        value * 1e3,
        "ms",
        f"{times} all-reduces x ({case.batch * tokens} positions x {llm.hidden} x {bits / 8:g} B"
        f" x 2({case.gpus} - 1)/{case.gpus} / {size(link)}/s + {empty:g} us)",
        True,
    )


def decoder_latency(case: Case) -> tuple[list[Term], Predicted]:
    """The terms of time: prefill, one decoded token, and tokens per second."""
    llm, device = _llm(case), case.device
    used = memory.decode_counts(case.each, llm).elements
    rate = device.rate(case.scheme.compute)
    if rate is None and case.scheme.instead is not None:
        rate = device.rate(case.scheme.instead)
    exchanged = [communication_term(case, "prefill", case.prompt), communication_term(case, "decode", 1)]
    prompts = _read_bytes(case, case.batch * case.prompt)
    prefill = _launched(case, _together(_prefill(case, used, prompts, rate), exchanged[0]))
    decode = _launched(
        case, _together(_decode(case, used, _read_bytes(case, case.batch), rate), exchanged[1])
    )
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
    return [*(term for term in exchanged if term), prefill, decode, speed], predicted


def _read_bytes(case: Case, tokens: int) -> float:
    """Bytes of the weights that one pass of `tokens` tokens reads."""
    nbytes = memory.stored_bytes(memory.decode_counts(case.each, _llm(case), tokens), case.scheme)
    if case.size is not None:
        # The exporter counted all weights; the share that is read follows from the scheme's bits.
        nbytes *= case.size.tensor_bytes / memory.stored_bytes(case.counts, case.scheme)
    return nbytes


def _launched(case: Case, alone: Term) -> Term:
    """The time with the launches of a pass's kernels, where the card says how many a server runs."""
    server, launch = case.target.server, case.device.launch_us
    if server is None or not server.kernels_per_layer or not launch or alone.value is None:
        return alone
    kernels = server.kernels_per_layer * _llm(case).layers
    formula = f"{alone.formula} + {kernels} kernels x {launch:g} us"
    return replace(alone, value=alone.value + kernels * launch * 1e-3, formula=formula, estimate=True)


def _together(alone: Term, exchange: Term | None) -> Term:
    """The time of one device and that of the exchange, one after the other: nothing overlaps."""
    if exchange is None:
        return alone
    if alone.value is None or exchange.value is None:
        lacking = alone if alone.value is None else exchange
        return replace(alone, value=None, formula=lacking.formula)
    return replace(
        alone, value=alone.value + exchange.value, formula=f"{alone.formula} + T_communication", estimate=True
    )


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
