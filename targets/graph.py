"""A graph's own terms of the verdict: activations, the document's upper bound and the roofline."""

from __future__ import annotations

from collections import Counter

from . import latency, memory
from .figures import count, size
from .placement import Placed
from .verdict import Case, Predicted, Term


def graph_activations(case: Case) -> Term:
    """M_activations: the most elements alive at once, from the graph's own life times."""
    peak, dtype = case.facts.peak_activations, case.scheme.activations
    if peak is None:
        return Term("M_activations", None, "B", "cannot be known: this source carries no graph that tells")
    value = memory.activation_bytes(peak, case.batch, dtype)
    return Term(
        "M_activations", value, "B", f"{count(peak)} elements alive at once x batch {case.batch} in {dtype}"
    )


def graph_latency(case: Case) -> tuple[list[Term], Predicted]:
    """The terms of time: compute, memory, communication, their sum, and the roofline per operator."""
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
