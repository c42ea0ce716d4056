"""Tables and JSON of what is known before a conversion: a model's facts, a verdict, targets and devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table
from rich.text import Text

from ..exporters import plan
from ..sources.source import KINDS
from ..targets import registry
from ..targets.card import Target
from ..targets.device import Device
from ..targets.facts import IoFact, ModelFacts
from ..targets.feasibility import Verdict
from ..targets.serving import Serving
from . import figures
from .terminal import output

if TYPE_CHECKING:
    from ..pipeline import Check

VERDICT_STYLE = {"fits": "green", "does not fit": "red", "unknown": "yellow"}


def _titled(name: str, rest: str) -> Text:
    return Text.assemble((name, "bold"), f": {rest}")


def facts_json(facts: ModelFacts) -> dict[str, Any]:
    """Everything that inspection found, tensors and operators counted rather than listed."""
    kinds: dict[str, int] = {}
    for op in facts.ops:
        kinds[op.kind] = kinds.get(op.kind, 0) + 1
    return {
        "kind": facts.kind,
        "name": facts.name,
        "architecture": facts.architecture,
        "parameters": facts.parameters,
        "weight_bytes": facts.bytes_by_dtype,
        "inputs": [dataclasses.asdict(io) for io in facts.inputs],
        "outputs": [dataclasses.asdict(io) for io in facts.outputs],
        "tensors": len(facts.tensors),
        "operators": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "flops": facts.flops,
        "unknown_operators": sorted({op.kind for op in facts.ops if op.flops is None}),
        "peak_activations": facts.peak_activations,
        "peak": None if facts.peak is None else dataclasses.asdict(facts.peak),
        "llm": None if facts.llm is None else dataclasses.asdict(facts.llm),
        "assumed": dict(facts.assumed),
        "notes": list(facts.notes),
    }


def facts(found: ModelFacts) -> None:
    """Print what a model is."""
    console = output()
    console.print(_titled(found.name, f"{found.architecture}, {KINDS.get(found.kind, found.kind)}"))
    stored = ", ".join(f"{figures.size(nbytes)} {dtype}" for dtype, nbytes in found.bytes_by_dtype.items())
    console.print(
        f"{figures.count(found.parameters)} parameters in {len(found.tensors)} tensors: {stored or 'no weights'}"
    )
    table = Table("", "name", "dtype", "shape")
    for side, ports in (("input", found.inputs), ("output", found.outputs)):
        for port in ports:
            table.add_row(side, port.name, port.dtype, _shape(port))
    console.print(table)
    if found.ops:
        known = facts_json(found)
        kinds = ", ".join(f"{kind} × {n}" for kind, n in list(known["operators"].items())[:12])
        console.print(f"{len(found.ops)} operators: {kinds}")
        flops = "unknown" if found.flops is None else f"{figures.count(found.flops)}FLOP an inference"
        assumed = ", ".join(f"{name} {size}" for name, size in found.assumed.items())
        console.print(flops + (f" at {assumed}" if assumed else ""))
        if known["unknown_operators"]:
            console.print(f"unknown cost: {', '.join(known['unknown_operators'])}", style="yellow")
    if found.llm is not None:
        llm = found.llm
        console.print(
            f"{llm.layers} layers, hidden {llm.hidden}, {llm.heads} heads ({llm.kv_heads} KV) of {llm.head_dim}, "
            f"vocabulary {llm.vocab}, context {llm.context}"
        )
    for note in found.notes:
        console.print(f"! {note}", style="yellow")


def _shape(port: IoFact) -> str:
    if port.shape is None:
        return "unknown"
    return "(" + ", ".join("?" if size is None else str(size) for size in port.shape) + ")"


def check_json(checked: Check) -> dict[str, Any]:
    """The verdict with every term, what was chosen, and what would fit instead."""
    return {
        "source": {"kind": checked.source.kind, "name": checked.source.name, "bytes": checked.source.nbytes},
        "target": checked.target.name,
        "device": checked.device.name,
        "quant": checked.scheme.name,
        **dataclasses.asdict(checked.verdict),
        "conversion_bytes": checked.conversion_bytes or None,
        "schemes": {name: _short(verdict) for name, verdict in checked.schemes.items()},
        "devices": {name: _short(verdict) for name, verdict in checked.devices.items()},
        "serving": {name: dataclasses.asdict(found) for name, found in checked.serving.items()},
    }


def _short(verdict: Verdict) -> dict[str, Any]:
    return {"verdict": verdict.verdict, **dataclasses.asdict(verdict.predicted)}


def check(checked: Any) -> None:
    """Print the verdict of a `pipeline.Check`: every term with its formula, and what would fit instead."""
    console = output()
    verdict = checked.verdict
    style = VERDICT_STYLE[verdict.verdict]
    asked = f"{checked.source.name} → {checked.target.name} {checked.scheme.name} on {checked.device.title}: "
    console.print(Text.assemble(asked, (verdict.verdict, f"bold {style}")))
    if verdict.reason:
        console.print(verdict.reason)
    table = Table("term", "value", "formula")
    table.columns[1].justify = "right"
    for term in verdict.terms:
        table.add_row(
            term.name + (" ≈" if term.estimate else ""), figures.term(term.value, term.unit), term.formula
        )
    console.print(table)
    console.print("≈ rests on an estimate", style="dim")
    if registry.exporter_available(checked.target):
        needs_data = checked.scheme.calibration == "required"
        for stage in plan.make_plan(checked.target, checked.scheme, calibrated=needs_data).stages:
            console.print(f"· {stage.name}: {stage.reason}")
    if checked.conversion_bytes:
        console.print(f"converting takes about {figures.size(checked.conversion_bytes)} of memory here")
    for basis in verdict.basis:
        console.print(basis, style="dim")
    for sentence in verdict.advice:
        console.print(f"→ {sentence}")
    if verdict.alternatives:
        alternatives(verdict.alternatives)
    surveyed = {"scheme": checked.schemes, "device": {} if checked.serving else checked.devices}
    for what, found in surveyed.items():
        if found:
            console.print(_survey(what, found))
    if checked.serving:
        console.print(_serving(checked.serving.values()))


def _survey(what: str, found: Mapping[str, Verdict]) -> Table:
    """The same model in every scheme, or on every device."""
    table = Table(what, "file", "peak memory", "tokens/s", "")
    for column in table.columns[1:4]:
        column.justify = "right"
    for name, verdict in found.items():
        predicted = verdict.predicted
        table.add_row(
            name,
            figures.exact_size(predicted.file_bytes)
            if verdict.counted
            else figures.size(predicted.file_bytes),
            figures.size(predicted.peak_memory_bytes),
            figures.UNKNOWN
            if predicted.tokens_per_second is None
            else figures.rate(predicted.tokens_per_second),
            Text(verdict.verdict, style=VERDICT_STYLE[verdict.verdict]),
        )
    return table


def _serving(found: Iterable[Serving]) -> Table:
    """How each device serves the model; the first is the one that was asked for."""
    first, *others = found
    title = (
        f"Serving with tensor parallel {first.tensor_parallel}, batch {first.batch}, context {first.context};"
        f" --max-model-len {first.max_model_len or figures.UNKNOWN}"
    )
    # Eighty columns are just enough without the table's edges.
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("device", no_wrap=True)
    speeds = ("prefill tok/s", "decode tok/s", "overall tok/s")
    for name in ("each GPU", "longest context", "largest batch", *speeds, "GPUs needed"):
        table.add_column(name, justify="right")
    for plan_ in (first, *others):
        needed = plan_.weight_bytes + plan_.kv_bytes + plan_.activation_bytes + plan_.runtime_bytes
        rates = (plan_.prefill_tokens_per_second, plan_.decode_tokens_per_second, plan_.tokens_per_second)
        table.add_row(
            Text(plan_.device, style=VERDICT_STYLE[plan_.verdict]),
            figures.size(needed),
            _whole(plan_.longest_context),
            _whole(plan_.largest_batch),
            *(figures.UNKNOWN if rate is None else figures.rate(rate) for rate in rates),
            figures.UNKNOWN if plan_.fewest_gpus is None else f"{plan_.fewest_gpus}",
        )
    return table


def _whole(value: int | None) -> str:
    return figures.UNKNOWN if value is None else f"{value}"


def alternatives(found: Iterable[Any]) -> None:
    """Print what would fit instead."""
    table = Table("what would fit", "peak memory", "latency", title="Instead", title_justify="left")
    for other in found:
        table.add_row(other.change, figures.size(other.memory_bytes), figures.milliseconds(other.latency_ms))
    output().print(table)


def target_json(target: Target) -> dict[str, Any]:
    """A target's card, and whether this installation can convert for it."""
    return {**dataclasses.asdict(target), "exporter": registry.exporter_available(target)}


def targets(found: Iterable[Target]) -> None:
    """Print one line a target."""
    table = Table("target", "runs", "schemes", "converts")
    for target in found:
        also = f" ({', '.join(target.aliases)})" if target.aliases else ""
        converts = "yes" if registry.exporter_available(target) else "check only"
        table.add_row(target.name + also, target.title, " ".join(target.schemes), converts)
    output().print(table)


def target(found: Target) -> None:
    """Print one target with its schemes."""
    console = output()
    console.print(_titled(found.name, f"{found.title}; {found.format} by runtime {found.runtime}"))
    console.print(f"takes: {', '.join(found.sources)}; default device {found.default_device}")
    table = Table("scheme", "what it is", "bits a weight", "activations", "calibration")
    for scheme in found.schemes.values():
        default = " (default)" if scheme.name == found.default_quant else ""
        table.add_row(
            scheme.name + default,
            scheme.title,
            f"{scheme.weight_bits:g}",
            scheme.activations,
            scheme.calibration,
        )
    console.print(table)


def matrix(found: Iterable[Target]) -> None:
    """Print which kind of source goes to which target; the reasons of refusals below."""
    table = Table(
        Column("target", no_wrap=True), *(Column(kind.replace("-", "-\n"), overflow="fold") for kind in KINDS)
    )
    reasons = []
    for target in found:
        cells = []
        for kind in KINDS:
            refusal = target.refusal(kind)
            if refusal is None:
                cells.append("yes" if registry.exporter_available(target) else "check")
            else:
                cells.append(figures.UNKNOWN)
                reasons.append(f"{kind} → {target.name}: {refusal.reason}; nearest: {refusal.nearest}")
        table.add_row(target.name, *cells)
    console = output()
    console.print(table)
    console.print("yes: converts; check: feasibility only in this version; –: refused, because:")
    for reason in reasons:
        console.print(reason)


def device_json(device: Device) -> dict[str, Any]:
    """Every figure of a device, and which of them are estimates."""
    return {**dataclasses.asdict(device), "estimates": sorted(device.estimates)}


def devices(found: Iterable[Device]) -> None:
    """Print one line a device."""
    table = Table("device", "what it is", "class", "memory", "bandwidth", "int8", "fp32")
    for device in found:
        peak = device.peak or {}
        table.add_row(
            device.name,
            device.title,
            device.device_class,
            figures.size(device.memory_bytes),
            "–" if device.bandwidth is None else f"{figures.size(device.bandwidth)}/s",
            _rate(peak.get("int8")),
            _rate(peak.get("float32")),
        )
    output().print(table)


def device(found: Device) -> None:
    """Print every figure of one device with its basis."""
    console = output()
    console.print(_titled(found.name, f"{found.title} ({found.device_class})"))
    table = Table("figure", "value", "basis")
    rows = [
        ("memory_bytes", figures.size(found.memory_bytes)),
        ("usable_fraction", figures.percent(found.usable_fraction)),
        ("bandwidth", "–" if found.bandwidth is None else f"{figures.size(found.bandwidth)}/s"),
        (
            "link_bandwidth",
            "–" if found.link_bandwidth is None else f"{figures.size(found.link_bandwidth)}/s",
        ),
        *((f"app_memory.{version}", figures.size(most)) for version, most in found.app_memory.items()),
        ("flash_bytes", figures.size(found.flash_bytes)),
        ("clock_hz", figures.UNKNOWN if found.clock_hz is None else f"{figures.count(found.clock_hz)}Hz"),
        *(
            (f"engines.{engine}.{dtype}", _rate(rate))
            for engine, rates in found.engines.items()
            for dtype, rate in rates.items()
        ),
        *((f"peak.{dtype}", _rate(rate)) for dtype, rate in (found.peak or {}).items() if not found.engines),
    ]
    for key, value in rows:
        table.add_row(key, value, "estimate" if found.is_estimate(key) else "published")
    console.print(table)
    for source in found.sources:
        console.print(source)
    if found.note:
        console.print(found.note)


def _rate(value: float | None) -> str:
    return figures.UNKNOWN if value is None else f"{figures.count(value)}OP/s"
