"""Latency formulas, one function a formula: upper bound, roofline per operator, prefill and decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .card import QuantScheme
from .device import Device, Rate
from .facts import DTYPE_BITS, LlmFacts, OpFact
from .placement import Placed, narrow, place

EFFICIENCY: Mapping[str, float] = {
    "conv": 0.9, "depthwise": 0.35, "gemm": 0.8, "matmul": 0.5, "recurrent": 0.4,
    "norm": 0.2, "softmax": 0.1, "elementwise": 0.2, "pool": 0.2,
    "embedding": 1.0, "movement": 1.0, "unknown": 0.1,
}  # fmt: skip
"""Share of the sustained rate that kernels of a class reach. Planning estimates, set where BERT,
ViT, ResNet-18 and MobileNetV2 in ONNX Runtime on one thread of an EPYC came out 5 to 30% above what was
measured (a CNN of 2.5 MFLOP, all in the cache, 55%)."""

DENSE = frozenset({"conv", "depthwise", "gemm", "matmul", "recurrent"})
"""Classes that run on the multiply-accumulate units, whose rate is the device's peak in their dtype."""

FREE = frozenset({"movement", "embedding"})
"""Classes that compute nothing, so that unknown FLOPs are 0 FLOPs."""


def compute_seconds(flops: float, peak: float, efficiency: float = 1.0) -> float:
    """T_compute = FLOPs / (peak * efficiency); FLOPs count a multiply-add as 2, `peak` is per second."""
    return flops / (peak * efficiency)


def memory_seconds(nbytes: float, bandwidth: float) -> float:
    """T_memory = bytes / bandwidth, with bandwidth in bytes per second."""
    return nbytes / bandwidth


def communication_seconds(nbytes: float, link: float | None) -> float:
    """T_communication = bytes / link bandwidth; 0 on one device, where nothing crosses a link (None)."""
    return nbytes / link if link else 0.0


def total_seconds(compute: float, memory: float, communication: float) -> float:
    """T_total = T_compute + T_memory + T_communication: nothing overlaps, so it is an upper bound."""
    return compute + memory + communication


def op_seconds(compute: float, memory: float, overhead: float) -> float:
    """One operator = max(FLOPs / (peak * efficiency), bytes / bandwidth) + overhead (the roofline)."""
    return max(compute, memory) + overhead


def decode_seconds(weight_bytes: float, kv_read_bytes: float, bandwidth: float) -> float:
    """T_decode = (weight bytes + KV bytes read) / bandwidth: one token of every sequence of the batch."""
    return (weight_bytes + kv_read_bytes) / bandwidth


def decode_flops(weights: float, llm: LlmFacts, batch: int, tokens: int) -> float:
    """FLOPs of one decoded token per sequence: 2 per weight, and attention over `tokens` positions."""
    return batch * (2 * weights + 4 * llm.layers * llm.heads * llm.head_dim * tokens)


def prefill_flops(weights: float, llm: LlmFacts, batch: int, tokens: int) -> float:
    """FLOPs of reading a prompt: 2 per weight and token, and causal attention (half of S x S)."""
    return batch * (2 * weights * tokens + 2 * llm.layers * llm.heads * llm.head_dim * tokens * tokens)


def tokens_per_second(batch: int, generated: int, prefill: float, decode: float) -> float:
    """tok/s = B * L / (T_prefill + L * T_decode) for L generated tokens; times in seconds."""
    return batch * generated / (prefill + generated * decode)


@dataclass(frozen=True)
class GraphTime:
    """Seconds of one inference of a graph; None where a rate, the bandwidth or an operator is not known."""

    flops: float | None
    moved_bytes: float
    compute: float | None
    memory: float | None
    roofline: float | None
    """Sum over the operators of max(compute, memory) + overhead."""
    missing: tuple[str, ...]
    """What would have to be known, as sentences."""
    dtypes: tuple[str, ...]
    """The dtypes whose peak rates counted."""
    placed: Placed | None = None
    """Which engine runs what, on a device that has several."""


def op_dtype(op: OpFact, scheme: QuantScheme) -> str:
    """The dtype in which an operator computes under a scheme.

    Products with weights use the scheme's `compute`. Products of two activations have that of the
    activations. Everything else runs on the vector units, in float32 unless the activations are half.
    """
    if op.op_class in DENSE and op.op_class != "matmul":
        return scheme.compute
    if op.op_class == "matmul":
        return scheme.compute if scheme.activations == scheme.weights else scheme.activations
    return scheme.activations if scheme.activations in ("float16", "bfloat16") else "float32"


def op_bytes(op: OpFact, scheme: QuantScheme, batch: int) -> float:
    """Bytes that one operator moves: its weights once, its activations for every sample."""
    bits = scheme.weight_bits
    if op.op_class in ("conv", "depthwise"):
        bits = scheme.conv_bits or bits
    elif op.op_class == "embedding":
        bits = scheme.embedding_bits or bits
    return op.weights * bits / 8 + op.activations * batch * DTYPE_BITS[scheme.activations] / 8


def graph_time(
    ops: Sequence[OpFact], scheme: QuantScheme, device: Device, batch: int, units: Sequence[str] = ()
) -> GraphTime:
    """The document's terms and the roofline of a whole graph, operator by operator.

    `units` are the engines that may be used, of a device that has several; empty for all.
    """
    if not ops:
        return GraphTime(None, 0.0, None, None, None, ("the graph, which this source does not carry",), ())
    placed = Placed() if device.engines else None
    rates: list[Rate | None] = [_rate(op, scheme, device, units, placed) for op in ops]
    missing = _missing(ops, scheme, device, rates)
    overhead = (device.launch_us or 0.0) * 1e-6
    flops = moved = compute = memory = roofline = 0.0
    for op, rate in zip(ops, rates, strict=True):
        work = (op.flops or 0) * batch
        nbytes = op_bytes(op, scheme, batch)
        op_compute = compute_seconds(work, rate.ops, EFFICIENCY[op.op_class]) if rate else 0.0
        op_memory = memory_seconds(nbytes, device.bandwidth) if device.bandwidth else 0.0
        flops, moved = flops + work, moved + nbytes
        # Launches count as computing, or the sum of the terms would be no upper bound of the roofline.
        compute, memory = compute + op_compute + overhead, memory + op_memory
        roofline += op_seconds(op_compute, op_memory, overhead)
    unknown_work = any(reason.startswith("the FLOPs") for reason in missing)
    unknown_rate = any(reason.startswith("a rate") for reason in missing)
    return GraphTime(
        flops=None if unknown_work else flops,
        moved_bytes=moved,
        compute=None if unknown_work or unknown_rate else compute,
        memory=memory if device.bandwidth else None,
        roofline=None if missing else roofline,
        missing=missing,
        dtypes=tuple(sorted({rate.dtype for rate in rates if rate})),
        placed=placed,
    )


def _rate(
    op: OpFact, scheme: QuantScheme, device: Device, units: Sequence[str], placed: Placed | None
) -> Rate | None:
    """The rate that one operator computes at; on a device with engines it is placed, and counted in `placed`."""
    dtype = op_dtype(op, scheme)
    if placed is None:
        return device.rate(dtype)
    where = place(op, narrow(dtype, scheme), device, units)
    placed.operators[where.engine] += 1
    if where.left is not None:
        placed.left[(op.kind, where.left)] += 1
    return where.rate


def _missing(
    ops: Sequence[OpFact], scheme: QuantScheme, device: Device, rates: Sequence[Rate | None]
) -> tuple[str, ...]:
    reasons = []
    unknown = sorted({op.kind for op in ops if op.flops is None and op.op_class not in FREE})
    if unknown:
        more = f" and {len(unknown) - 3} more kinds" if len(unknown) > 3 else ""
        reasons.append(f"the FLOPs of {', '.join(unknown[:3])}{more}")
    # An operator that computes nothing needs no rate.
    lacking = sorted(
        {op_dtype(op, scheme) for op, rate in zip(ops, rates, strict=True) if op.flops and rate is None}
    )
    if lacking:
        reasons.append(f"a rate of {device.name} for {', '.join(lacking)}")
    if device.bandwidth is None:
        reasons.append(f"the bandwidth of {device.name}")
    return tuple(reasons)
