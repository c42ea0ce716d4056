"""What would fit instead: the same case with one thing changed, judged again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from . import parallel, registry
from .decoder import at_context, split_over
from .device import Device
from .facts import DTYPE_BITS
from .verdict import Alternative, Case, Verdict

SHORTEST_CONTEXT = 256
"""Contexts below this are of no use to anyone."""
MOST_SCHEMES = 3
"""Smaller schemes that are listed, the most precise first."""

Assess = Callable[[Case], Verdict]


def find_alternatives(case: Case, assess: Assess) -> tuple[Alternative, ...]:
    """Smaller schemes, shorter contexts, smaller batches, more GPUs, other devices; several only where none helps."""
    here = [
        *_first(_smaller_schemes(case), assess, MOST_SCHEMES),
        *_first(_shorter_contexts(case), assess),
        *_first(_smaller_batches(case), assess),
        *_first(_other_splits(case), assess),
    ] or _first(_smallest(case), assess)
    there = _first(_other_devices(case), assess) or _first(_smallest_elsewhere(case), assess)
    return (*here, *there)


def _first(cases: Iterator[tuple[str, Case]], assess: Assess, most: int = 1) -> list[Alternative]:
    """The first cases that fit, or where that cannot be known for want of the graph, might."""
    found: list[Alternative] = []
    for change, case in cases:
        verdict = assess(case)
        if verdict.verdict != "does not fit" and case.device.usable_bytes is not None:
            found.append(_alternative(change, case, verdict))
            if len(found) == most:
                break
    return found


def _alternative(change: str, case: Case, verdict: Verdict) -> Alternative:
    figures = verdict.predicted
    return Alternative(
        change=change,
        quant=case.scheme.name,
        device=case.device.name,
        batch=case.batch,
        context=case.context or None,
        memory_bytes=figures.peak_memory_bytes,
        file_bytes=figures.file_bytes,
        latency_ms=figures.decode_ms if case.context else figures.latency_ms,
        tensor_parallel=case.gpus,
    )


def _smaller_schemes(case: Case) -> Iterator[tuple[str, Case]]:
    def bits(item: Case) -> float:
        return item.scheme.resident_bits or item.scheme.weight_bits

    others = (replace(case, scheme=scheme) for scheme in case.target.schemes.values())
    smaller = [
        o
        for o in others
        if o.scheme.weight_bits < case.scheme.weight_bits or bits(o) < bits(case) or _narrower(o, case)
    ]
    for other in sorted(smaller, key=lambda o: -o.scheme.weight_bits):
        yield f"--quant {other.scheme.name}", other


def _narrower(other: Case, case: Case) -> bool:
    """Whether activations are narrower, which is what RAM holds where weights stay in flash."""
    held = DTYPE_BITS[other.scheme.activations], DTYPE_BITS[case.scheme.activations]
    return case.device.flash_bytes is not None and held[0] < held[1]


def _shorter_contexts(case: Case) -> Iterator[tuple[str, Case]]:
    context = case.context
    while context // 2 >= max(SHORTEST_CONTEXT, case.asked_prompt or 0):
        # Powers of two are what people set, so 5000 becomes 4096 first.
        context = 1 << ((context - 1).bit_length() - 1)
        yield f"--context {context}", at_context(case, context)


def _smaller_batches(case: Case) -> Iterator[tuple[str, Case]]:
    batch = case.batch
    while batch > 1:
        batch //= 2
        yield f"--batch {batch}", replace(case, batch=batch)


def _other_splits(case: Case) -> Iterator[tuple[str, Case]]:
    """More GPUs of one server, the fewest first; then fewer, for a scheme that this split cuts."""
    if case.target.server is None or case.facts.llm is None:
        return
    known = parallel.sizes(case.facts.llm, parallel.MOST_GPUS)
    more = [gpus for gpus in known if gpus > case.gpus]
    for gpus in more + [gpus for gpus in reversed(known) if gpus < case.gpus]:
        yield f"--tensor-parallel {gpus}", split_over(case, gpus)


def _other_devices(case: Case) -> Iterator[tuple[str, Case]]:
    """Devices that the target runs on, those of the same class first, the smallest first."""

    def order(device: Device) -> tuple[bool, int]:
        return (device.device_class != case.device.device_class, device.usable_bytes or 0)

    for device in sorted(registry.devices(), key=order):
        if device.device_class in case.target.device_classes and device.name != case.device.name:
            yield f"--device {device.name}", replace(case, device=device)


def _smallest(case: Case) -> Iterator[tuple[str, Case]]:
    """The smallest scheme with batch 1, then with ever shorter contexts."""
    change, small = _smallest_scheme(case)
    yield change, small
    for more, other in _shorter_contexts(small):
        yield f"{change} {more}", other


def _smallest_elsewhere(case: Case) -> Iterator[tuple[str, Case]]:
    change, small = _smallest_scheme(case)
    for more, other in _other_devices(small):
        yield f"{change} {more}", other


def _smallest_scheme(case: Case) -> tuple[str, Case]:
    scheme = min(case.target.schemes.values(), key=lambda scheme: scheme.weight_bits)
    change = f"--quant {scheme.name}" + (" --batch 1" if case.batch > 1 else "")
    return change, replace(case, scheme=scheme, batch=1)
