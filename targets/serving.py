"""Serving a language model: what each GPU holds, the longest context and largest batch, tokens a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from . import feasibility, parallel
from .card import QuantScheme, Target
from .decoder import split_over
from .device import Device
from .errors import UsageError
from .facts import ModelFacts
from .verdict import Answer, Case, Size


@dataclass(frozen=True)
class Serving:
    """One model on one kind of GPU. Bytes are those of each GPU; None where a figure cannot be known."""

    device: str
    quant: str
    tensor_parallel: int
    """GPUs that the model is split over."""
    batch: int
    context: int
    """Tokens of each sequence, prompt and answer together, that the figures below are for."""
    verdict: Answer
    weight_bytes: int
    kv_bytes: int
    activation_bytes: int
    runtime_bytes: int
    usable_bytes: int | None
    memory_share: float
    """Share of the memory that the runtime is told to take."""
    longest_context: int | None
    """Most tokens of each sequence of the batch; 0 when the model does not fit at all. The model's own
    limit is not counted."""
    largest_batch: int | None
    """Most sequences of `context` tokens at once; 0 when not even one fits."""
    max_model_len: int | None
    """What the runtime is told: the context that was asked for, else the longest that fits, and never more than
    the model was made for; None when nothing fits."""
    prefill_ms: float | None
    """Reading the prompts of the whole batch."""
    decode_ms: float | None
    """One token of every sequence."""
    communication_ms: float | None
    """What of `decode_ms` the GPUs spend on exchanging; 0 on one."""
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    tokens_per_second: float | None
    """Generated tokens, prefill included: B * L / (T_prefill + L * T_decode)."""
    fewest_gpus: int | None
    """The fewest GPUs that batch and context fit on; None when no split is enough or it cannot be known."""


def plan(
    facts: ModelFacts,
    target: Target,
    device: Device,
    scheme: QuantScheme,
    *,
    batch: int = 1,
    context: int | None = None,
    sequence: int | None = None,
    tensor_parallel: int = 1,
    sizes: Mapping[str, Size] | None = None,
) -> Serving:
    """How `tensor_parallel` of `device` serve the model, stored as `scheme` says.

    Args:
        facts: Of a language model.
        target: One that serves (`Target.server`).
        device: Gives memory, bandwidth, rates and the link between two of them.
        scheme: Gives the bits.
        batch: Sequences at a time.
        context: Tokens per sequence. Default: the model's own, up to 4096; `max_model_len` is then as long
            as model and memory allow.
        sequence: Tokens of the prompt. Default: 512, or half the context.
        tensor_parallel: GPUs that the model is split over.
        sizes: Sizes by scheme that the exporter counted; where there are none, they are estimated.

    Raises:
        UsageError: a number makes no sense, the model cannot be split so, or the target serves nobody.
    """
    if target.server is None or facts.llm is None:
        raise UsageError(f"{target.name} serves no language model of this kind", where="--target")
    case = feasibility.make_case(facts, target, device, scheme, batch, context, sequence)
    case = feasibility.in_parallel(replace(case, sizes=sizes or {}), tensor_parallel)
    verdict = feasibility.assess(case)
    terms = {term.name: term.value for term in verdict.terms}
    figures = verdict.predicted
    exchange = terms.get("T_communication, decode", 0.0)
    longest = longest_context(case)
    return Serving(
        device=device.name,
        quant=scheme.name,
        tensor_parallel=tensor_parallel,
        batch=batch,
        context=case.context,
        verdict=verdict.verdict,
        weight_bytes=round(terms["M_model"] or 0),
        kv_bytes=round(terms["M_KV"] or 0),
        activation_bytes=round(terms["M_activations"] or 0),
        runtime_bytes=round(terms["runtime"] or 0),
        usable_bytes=feasibility.usable_bytes(case),
        memory_share=target.server.memory_share,
        longest_context=longest,
        largest_batch=largest_batch(case),
        max_model_len=min(told, facts.llm.context) if (told := context or longest) else None,
        prefill_ms=figures.prefill_ms,
        decode_ms=figures.decode_ms,
        communication_ms=exchange,
        prefill_tokens_per_second=_per_second(batch * case.prompt, figures.prefill_ms),
        decode_tokens_per_second=_per_second(batch, figures.decode_ms),
        tokens_per_second=figures.tokens_per_second,
        fewest_gpus=fewest_gpus(case),
    )


def longest_context(case: Case) -> int | None:
    """The most tokens per sequence, in whole blocks, that fit with the case's batch; None: memory not known."""
    block = case.target.server.block_tokens if case.target.server else 1
    found = _most(lambda blocks: replace(case, context=blocks * block))
    return None if found is None else found * block


def largest_batch(case: Case) -> int | None:
    """The most sequences that fit at the case's context; None when the memory is not known."""
    return _most(lambda batch: replace(case, batch=batch))


def fewest_gpus(case: Case) -> int | None:
    """The fewest GPUs of one server that the case fits on; None when all are not enough, or it is not known."""
    assert case.facts.llm is not None
    for gpus in parallel.sizes(case.facts.llm, parallel.MOST_GPUS):
        cut = parallel.cut_group(case.facts.llm, case.scheme, gpus)
        if not cut and _fits(split_over(case, gpus)):
            return gpus
    return None


def _fits(case: Case) -> bool:
    usable = feasibility.usable_bytes(case)
    return usable is not None and feasibility.needed_bytes(case) <= usable


def _most(change: Callable[[int], Case]) -> int | None:
    """The largest number whose case fits: doubled until it does not, then halved in between."""
    if feasibility.usable_bytes(change(1)) is None:
        return None
    low, high = 0, 1
    while _fits(change(high)):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(change(middle)) else (low, middle)
    return low


def _per_second(tokens: int, milliseconds: float | None) -> float | None:
    return tokens / milliseconds * 1e3 if milliseconds else None
