"""Will the model fit, and how fast will it be: judged from headers alone, each term with its formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from . import memory, parallel, shrink
from .alternatives import find_alternatives
from .card import QuantScheme, Target
from .decoder import at_context, decoder_activations, decoder_latency, kv_term, split_over
from .device import Device
from .errors import UsageError
from .facts import LlmFacts, ModelFacts
from .figures import count, size
from .graph import graph_activations, graph_latency
from .verdict import Alternative, Answer, Case, Predicted, Size, Term, Verdict

__all__ = ["Alternative", "Case", "Predicted", "Size", "Term", "Verdict", "judge"]

DEFAULT_CONTEXT = 4096
MOST_PRUNED = 2
"""Times the memory that there is, beyond which no pruning without training makes a graph fit."""


def judge(
    facts: ModelFacts,
    target: Target,
    device: Device,
    scheme: QuantScheme,
    *,
    batch: int = 1,
    context: int | None = None,
    sequence: int | None = None,
    sizes: Mapping[str, Size] | None = None,
    units: Sequence[str] = (),
    tensor_parallel: int = 1,
    alternatives: bool = True,
) -> Verdict:
    """Whether the model fits, and what it will cost; with what would fit instead where it does not.

    Whether target and source go together at all is another question: `Target.require_source`.

    Args:
        facts: What inspection found. Its free dimensions have the sizes that `facts.assumed` tells.
        target: Gives the limits of the format and the runtime's overhead.
        device: Gives memory, bandwidth and rates.
        scheme: Gives the bits.
        batch: Samples or sequences at a time.
        context: Tokens per sequence that the KV cache holds; language models only. Default: the model's
            own, up to 4096.
        sequence: Tokens of the prompt; language models only. Default: 512, or half the context.
        sizes: Sizes by scheme that the exporter counted; where there are none, they are estimated.
        units: The engines that may be used, of a device that has several; empty for all.
        tensor_parallel: Devices that the model is split over; language models on targets that serve only.
        alternatives: Whether to look for what would fit where it does not.

    Raises:
        UsageError: batch, context, sequence or tensor_parallel make no sense.
    """
    case = make_case(facts, target, device, scheme, batch, context, sequence)
    case = in_parallel(replace(case, sizes=sizes or {}, units=tuple(units)), tensor_parallel)
    verdict = assess(case)
    if verdict.verdict != "does not fit" or not alternatives:
        return verdict
    return replace(
        verdict,
        alternatives=find_alternatives(case, assess),
        advice=_advice(case),
        climbable=_climbable(case, verdict),
    )


def _climbable(case: Case, verdict: Verdict) -> bool:
    """Whether a graph on a microcontroller lacks memory alone: another order, or up to half of its channels gone."""
    usable, needed = case.device.usable_bytes, verdict.predicted.peak_memory_bytes
    if case.device.flash_bytes is None or usable is None or needed is None or len(verdict.reasons) != 1:
        return False
    room = _room(case)[0] - _by_channel(case)
    return usable < needed <= MOST_PRUNED * usable or shrink.reorderable(case, room)


def _by_channel(case: Case) -> float:
    """Bytes that kernels keep for every channel of the model."""
    each = case.target.overhead_for(case.device.device_class).memory_bytes_per_channel
    return each * memory.channels(case.facts)


def _room(case: Case) -> tuple[float, float]:
    """RAM for activations and channels, and flash for weights, on a device that runs them from flash; 0 elsewhere."""
    usable, flash = case.device.usable_bytes, case.device.flash_bytes
    if usable is None or flash is None:
        return 0.0, 0.0
    extra = case.target.overhead_for(case.device.device_class)
    ops = len(case.facts.ops)
    return (
        usable - memory.runtime_bytes(case.facts, extra) + _by_channel(case),
        flash - extra.code_bytes - extra.file_bytes - extra.file_bytes_per_op * ops,
    )


def _advice(case: Case) -> tuple[str, ...]:
    """What to change in a graph so that it fits a device that runs weights from flash."""
    if case.device.flash_bytes is None or case.facts.llm is not None:
        return ()
    return shrink.advice(case, *_room(case), _by_channel(case))


def make_case(
    facts: ModelFacts,
    target: Target,
    device: Device,
    scheme: QuantScheme,
    batch: int,
    context: int | None,
    sequence: int | None,
) -> Case:
    """The case on one device; raises UsageError as `judge` does."""
    for option, value in (("--batch", batch), ("--context", context), ("--sequence", sequence)):
        if value is not None and value < 1:
            raise UsageError(f"is {value}", where=option, mend="Give a number from 1 on")
    case = Case(facts, memory.count_weights(facts), target, device, scheme, batch)
    if facts.llm is None:
        return case
    tokens = context if context is not None else min(facts.llm.context, DEFAULT_CONTEXT)
    if sequence is not None and sequence > tokens:
        raise UsageError(
            f"a prompt of {sequence} tokens does not go into a context of {tokens}",
            where="--sequence",
            mend="Make the context longer or the prompt shorter",
        )
    return at_context(replace(case, asked_prompt=sequence), tokens)


def in_parallel(case: Case, gpus: int) -> Case:
    """The case split over `gpus` devices; raises UsageError where target or model cannot be split so."""
    if gpus == 1:
        return case
    if gpus < 1:
        raise UsageError(f"is {gpus}", where="--tensor-parallel", mend="Give a number from 1 on")
    if case.target.server is None or case.facts.llm is None:
        raise UsageError(
            f"{case.target.name} runs a model on one device", where="--tensor-parallel", mend="Leave it out"
        )
    parallel.require(case.facts.llm, gpus)
    return split_over(case, gpus)


def assess(case: Case) -> Verdict:
    """The verdict on one case, without alternatives."""
    file = _file_term(case)
    needed, total = _memory_terms(case)
    limits, failed, unknown = _compare(case, file, needed, total)
    timing, predicted = decoder_latency(case) if case.facts.llm else graph_latency(case)
    answer: Answer = "does not fit" if failed else "unknown" if unknown else "fits"
    return Verdict(
        verdict=answer,
        terms=(file, *needed, total, *limits, *timing),
        predicted=replace(
            predicted,
            file_bytes=None if file.value is None else round(file.value),
            peak_memory_bytes=None if total.value is None else round(total.value),
        ),
        reasons=tuple(failed or unknown),
        basis=_basis(case),
    )


def _file_term(case: Case) -> Term:
    if case.size is not None:
        counted, header = case.size.file_bytes, case.size.file_bytes - case.size.tensor_bytes
        formula = f"weights {size(case.size.tensor_bytes)} + header {size(header)}, counted to the byte"
        return Term("file", counted, "B", formula)
    extra = case.target.overhead_for(case.device.device_class)
    weights = memory.stored_bytes(case.counts, case.scheme)
    graph = extra.file_bytes + len(case.facts.ops) * extra.file_bytes_per_op
    return Term(
        "file",
        weights + graph,
        "B",
        f"weights {size(weights)} + graph and metadata {size(graph)}",
        estimate=True,
    )


def _memory_terms(case: Case) -> tuple[list[Term], Term]:
    """Each part of the memory, and their sum (None when a part cannot be known)."""
    counts, scheme = case.each, case.scheme
    resident = memory.resident_bytes(counts, scheme)
    in_flash = case.device.flash_bytes is not None
    bits = scheme.resident_bits or scheme.weight_bits
    formula = f"{count(counts.elements)} weights, matrices at {bits:g} bits"
    if case.size is not None:
        share = memory.stored_bytes(counts, scheme) / memory.stored_bytes(case.counts, scheme)
        resident = case.size.tensor_bytes * share
        formula = f"{count(counts.elements)} weights, as the file holds them"
    if case.gpus > 1:
        formula += f",{_on_each(case)}"
    if in_flash:
        resident, formula = 0.0, "weights are read in place from flash"
    parts = [Term("M_model", resident, "B", formula)]
    if case.facts.llm:
        parts.append(kv_term(case))
        parts.append(decoder_activations(case))
    else:
        parts.append(graph_activations(case))
    extra = case.target.overhead_for(case.device.device_class)
    own = memory.runtime_bytes(case.facts, extra)
    runtime = own + extra.weight_copies * resident
    copies = (
        f" + {extra.weight_copies:g} x M_model kept by the loader" if extra.weight_copies and resident else ""
    )
    parts.append(Term("runtime", runtime, "B", f"{size(own)} of {case.target.runtime}{copies}", True))
    values = [part.value for part in parts]
    names = " + ".join(part.name for part in parts)
    if any(value is None for value in values):
        missing = ", ".join(part.name for part in parts if part.value is None)
        return parts, Term("M_infer", None, "B", f"{names}; cannot be known without {missing}")
    return parts, Term("M_infer", sum(value or 0.0 for value in values), "B", names, True)


def needed_bytes(case: Case) -> float:
    """M_infer of a language model, in bytes of each device."""
    return sum(term.value or 0.0 for term in _memory_terms(case)[0])


def _compare(
    case: Case, file: Term, needed: list[Term], total: Term
) -> tuple[list[Term], list[str], list[str]]:
    """The limits as terms, and in sentences what breaks them and what cannot be known."""
    device, limits = case.device, case.target.limits
    terms, failed, unknown = [], [], []
    at_least = sum(part.value or 0.0 for part in needed)
    usable = usable_bytes(case)
    if usable is None:
        unknown.append(f"the memory of {device.name} is not known: a device file of your own can tell it")
    else:
        terms += _usable_terms(case, usable)
        if at_least > usable:
            failed.append(
                f"it needs {size(at_least)} of memory{_on_each(case)}, and {device.name} has"
                f" {size(usable)} to give" + _at_peak(case)
            )
    if case.facts.llm is not None:
        failed += filter(None, [parallel.cut_group(case.facts.llm, case.scheme, case.gpus)])
    ceiling = limits.max_memory_bytes
    if ceiling is not None and at_least > ceiling:
        failed.append(
            f"it needs {size(at_least)} of memory, and {case.target.name} can address {size(ceiling)}"
        )
    if total.value is None:
        unknown.append(f"memory beyond {size(at_least)}: {total.formula.rpartition('; ')[2]}")
    if device.flash_bytes is not None:
        terms.append(_flash_term(case, file))
    for name, limit, owner, held in (
        ("flash", device.flash_bytes, device.name, terms[-1] if device.flash_bytes is not None else file),
        ("largest file", limits.max_file_bytes, limits.file_limit_of or case.target.format, file),
    ):
        if limit is None:
            continue
        terms.append(
            Term(
                name,
                float(limit),
                "B",
                f"limit of {owner}",
                name == "flash" and device.is_estimate("flash_bytes"),
            )
        )
        if held.value is not None and held.value > limit:
            what = "model and code take" if held is not file else "the file takes"
            where = f"the flash of {owner}" if held is not file else f"the limit of {owner}"
            failed.append(f"{what} {size(held.value)}, and {where} is {size(limit)}")
    return terms, failed, unknown


def _flash_term(case: Case, file: Term) -> Term:
    """The model and the runtime's code, which share the flash."""
    code = case.target.overhead_for(case.device.device_class).code_bytes
    value = None if file.value is None else file.value + code
    return Term(
        "M_flash", value, "B", f"file + about {size(code)} of code ({case.target.runtime} and kernels)", True
    )


def _at_peak(case: Case) -> str:
    """Where a graph's activations peak, where that is known and what decides."""
    peak = case.facts.peak
    if case.device.flash_bytes is None or peak is None:
        return ""
    largest = memory.activation_bytes(peak.tensor_elements, case.batch, case.scheme.activations)
    return f"; the peak is in {peak.operator} ({peak.kind}), while {peak.tensor} takes {size(largest)} of it"


def usable_bytes(case: Case) -> int | None:
    """Memory of one device that the model can have; None when it is not known."""
    server, device = case.target.server, case.device
    if server is None or device.memory_bytes is None:
        return device.usable_bytes
    return int(device.memory_bytes * server.memory_share)


def _on_each(case: Case) -> str:
    return f" on each of {case.gpus} GPUs" if case.gpus > 1 else ""


def _usable_terms(case: Case, usable: int) -> list[Term]:
    """What one program can have: by version of the system where that is known, else a share of the memory."""
    device, server = case.device, case.target.server
    if server is not None:
        taken = f"{size(device.memory_bytes or 0)} of {device.name} x {server.memory_share:g} that it takes"
        return [Term("usable memory", float(usable), "B", taken, device.is_estimate("memory_bytes"))]
    if not device.app_memory:
        share = (
            f"{size(device.memory_bytes or 0)} of {device.name} x {device.usable_fraction:g} for one program"
        )
        return [Term("usable memory", float(usable), "B", share, device.usable_fraction < 1)]
    estimate = device.is_estimate("app_memory")
    return [
        Term(
            "usable memory",
            float(nbytes),
            "B",
            f"one app on {device.name} from {version} on"
            + (": the least counts" if nbytes == usable else ""),
            estimate,
        )
        for version, nbytes in device.app_memory.items()
    ]


def _routing(llm: LlmFacts) -> str:
    if not 0 < llm.experts_per_token < llm.experts:
        return "a mixture of experts: every expert counts as read, so decoding is an upper bound"
    return (
        f"a mixture of {llm.experts} experts, of which a token is sent to {llm.experts_per_token}:"
        " the router is taken to choose evenly"
    )


def _basis(case: Case) -> tuple[str, ...]:
    """What the figures rest on, in sentences."""
    device = case.device
    if not case.facts.llm:
        said = [f"{name} taken as {value}" for name, value in case.facts.assumed.items()]
    else:
        said = [
            f"batch {case.batch}, context {case.context}: a prompt of {case.prompt} tokens"
            f" and {case.generated} generated ones"
        ]
        if case.gpus > parallel.MOST_GPUS:
            said.append(
                f"more than {parallel.MOST_GPUS} GPUs stand in several machines as a rule, and the network"
                " between those is slower than the links that were counted with"
            )
        if case.context > case.facts.llm.context:
            said.append(f"the model was made for {case.facts.llm.context} tokens, fewer than this context")
        if case.counts.experts:
            said.append(_routing(case.facts.llm))
    prompt = case.target.limits.prompt_bytes
    if prompt is not None:
        stored = memory.stored_bytes(case.counts, case.scheme)
        said += [f"above {size(prompt)} the store asks before it downloads over a mobile network"] * (
            stored > prompt
        )
    estimated = sorted(device.estimates - {"launch_us"})
    if estimated:
        said.append(
            f"estimates of {device.name}: {', '.join(estimated)}"
            + (f" ({device.note})" if device.note else "")
        )
    said.append("efficiencies, runtime overhead and the usable share of the memory are planning estimates")
    return tuple(said)
