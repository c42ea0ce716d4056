"""A graph's own terms of the verdict: activations, the document's upper bound and the roofline."""

from __future__ import annotations

from collections import Counter

from . import cycles, latency, memory
from .figures import count, size
from .placement import Placed
from .verdict import Case, Predicted, Term

UNKNOWN_WORK = "cannot be known without the FLOPs of every operator"


def graph_activations(case: Case) -> Term:
    """M_activations: the most elements alive at once, from the graph's own life times."""
    peak, dtype = case.facts.peak_activations, case.scheme.activations
    fused = case.facts.peak
    if fused is not None and case.device.flash_bytes is not None:
        # Here every byte counts, and the planner's arena has no place for what is computed in place.
        formula = (
            f"{count(fused.elements)} elements alive at once in {fused.operator} ({fused.kind}) x batch {case.batch}"
            f" in {dtype}; the largest is {fused.tensor}, {count(fused.tensor_elements)}"
        )
        value = memory.activation_bytes(fused.elements, case.batch, dtype)
        return Term("M_activations", value, "B", formula)
    if peak is None:
        return Term("M_activations", None, "B", "cannot be known: this source carries no graph that tells")
    value = memory.activation_bytes(peak, case.batch, dtype)
    return Term(
        "M_activations", value, "B", f"{count(peak)} elements alive at once x batch {case.batch} in {dtype}"
    )


def graph_latency(case: Case) -> tuple[list[Term], Predicted]:
    """The terms of time: compute, memory, communication, their sum, and the roofline per operator.

    Cores that have measured cycles are counted in those instead.
    """
    if case.device.core and case.device.clock_hz and case.facts.ops:
        return _counted_cycles(case)
    time = latency.graph_time(case.facts.ops, case.scheme, case.device, case.batch, case.units)
    device = case.device
    why = "cannot be known without " + " and ".join(time.missing)
    moved = f"{size(time.moved_bytes)} / {size(device.bandwidth or 0)}/s"
    upper = None
    if time.compute is not None and time.memory is not None:
        upper = latency.total_seconds(time.compute, time.memory, latency.communication_seconds(0, None))
    rates = (
        "the rate of each one's engine"
        if device.engines
        else ", ".join(f"{count(rate.ops)}/s {d}" for d in time.dtypes if (rate := device.rate(d)))
    )
    launches = f"{len(case.facts.ops)} operators x {device.launch_us or 0:g} us"
    work = f"{count(time.flops or 0)} FLOP / ({rates} x efficiency of each operator class) + {launches}"
    terms = [
        _ms("T_compute", time.compute, work if time.compute is not None else why),
        _ms("T_memory", time.memory, moved if time.memory is not None else why),
        _ms("T_communication", 0.0, "one device: nothing crosses a link", estimate=False),
        _ms(
            "T_total",
            upper,
            "T_compute + T_memory + T_communication (upper bound)" if upper is not None else why,
        ),
        _ms(
            "latency",
            time.roofline,
            f"sum of max(compute, memory) of each operator + {launches}"
            if time.roofline is not None
            else why,
        ),
    ]
    terms += _engine_terms(time.placed)
    to_ms = (None if value is None else value * 1e3 for value in (time.roofline, upper))
    return terms, Predicted(latency_ms=next(to_ms), latency_upper_ms=next(to_ms))


def _counted_cycles(case: Case) -> tuple[list[Term], Predicted]:
    """Latency by multiply-accumulates and cycles, once for each library of kernels; the fastest is predicted."""
    device, ops = case.device, case.facts.ops
    calls = sum(not cycles.folded(op) for op in ops)
    launches = (device.launch_us or 0.0) * 1e-6 * calls
    terms, first, slowest = [], None, None
    for kernels in cycles.of_device(device):
        found = cycles.total(ops, kernels, case.batch)
        seconds = None if found is None or not device.clock_hz else found / device.clock_hz + launches
        classes = sorted({op.op_class for op in ops if op.op_class in cycles.MULTIPLYING})
        each = ", ".join(
            f"{name} {kernels.cycles[name]:g}{'≈' if name in kernels.estimates else ''}" for name in classes
        )
        work = (
            f"{count(cycles.macs(ops) * case.batch)} multiply-accumulates x cycles ({each}) and other operators"
            f" / {count(device.clock_hz or 0)}Hz + {calls} operators x {device.launch_us or 0:g} us;"
            f" {kernels.sources[0].split(' (')[0]}"
        )
        terms.append(
            _ms(f"latency, {kernels.library}", seconds, work if seconds is not None else UNKNOWN_WORK)
        )
        first = seconds if first is None else first
        slowest = seconds
    to_ms = [None if value is None else value * 1e3 for value in (first, slowest)]
    return terms, Predicted(latency_ms=to_ms[0], latency_upper_ms=to_ms[1])


def _engine_terms(placed: Placed | None) -> list[Term]:
    """How many operators run on each engine, and which ones a table says leave the preferred one."""
    if placed is None:
        return []
    terms = [
        Term(
            f"on the {name}",
            float(operators),
            "operators",
            "the first engine that runs them in their dtype",
            True,
        )
        for name, operators in placed.operators.items()
    ]
    cited: dict[str, Counter[str]] = {}
    for (kind, leave), operators in placed.left.items():
        cited.setdefault(leave.title, Counter())[kind] += operators
    return [
        *terms,
        *(
            Term(
                "leave the Neural Engine",
                float(kinds.total()),
                "operators",
                f"{_listed(kinds)}: {title}",
                True,
            )
            for title, kinds in cited.items()
        ),
    ]


def _listed(kinds: Counter[str]) -> str:
    return ", ".join(kind if operators == 1 else f"{kind} x {operators}" for kind, operators in kinds.items())


def _ms(name: str, seconds: float | None, formula: str, *, estimate: bool = True) -> Term:
    return Term(
        name, None if seconds is None else seconds * 1e3, "ms", formula, estimate and seconds is not None
    )
