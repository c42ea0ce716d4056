"""The engine-ready graph of each scheme: float32 as it is, typed float16 and bfloat16, explicit int8 and fp8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from ....calibration.samples import SampleSet
from ....targets.errors import Unsupported
from ...job import Job, Progress
from ...onnx import files, graph, ranges, settle, shapes
from ...onnx.source import upgraded
from . import balance, half, placement, quantize

SCHEMES = ("fp32", "fp16", "bf16", "int8", "fp8")
LEAST_OPSET = 19
"""QuantizeLinear to float8, and float16 scales, are defined from here on."""
BFLOAT_OPSET = 22
"""The first operator set whose convolutions and poolings take bfloat16."""
WORTH_A_WORD = 1 << 19
"""Bytes of stored float16 from which the report names who reads them."""
LOOKED_AT = 64
"""Samples on which overflow of float16 is looked for at the most, where ranges need no more."""


def make(job: Job, model: onnx.ModelProto, progress: Progress) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph in scheme `job.quant`, and sentences for the report.

    Inputs and outputs keep names and dtypes. Raises Unsupported for another scheme, a graph that is quantized
    already, and one without products where the scheme is 8-bit; UsageError where 8 bits have no samples.
    """
    if job.quant not in SCHEMES:
        raise Unsupported(
            f"there is no scheme {job.quant!r}", where="--quant", mend=f"Known are {', '.join(SCHEMES)}"
        )
    if job.quant == "fp32":
        return upgraded(model, LEAST_OPSET, job.source_path), ()
    model = settle.settled(model)
    settle.refuse_narrow(model, job)
    least = BFLOAT_OPSET if job.quant == "bf16" else LEAST_OPSET
    model = shapes.prepared(upgraded(model, least, job.source_path), Path(job.work))
    graph.name_nodes(model)
    exact = half.exact_nodes(model)
    if job.quant == "bf16":
        return half.typed(model, "bf16", exact), tuple(_kept(exact, "positions and sizes are computed in it"))
    return _half_range(job, model, exact, progress)


def _half_range(
    job: Job, model: onnx.ModelProto, exact: set[str], progress: Progress
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The schemes whose floats are float16: what it cannot hold on the samples stays float32."""
    notes: list[str] = []
    clamped = half.clamp_sentinels(model)
    if clamped:
        notes.append(
            f"Stored values that stand for infinity ({clamped}) are ±{half.SENTINEL_IN_HALF:g} in float16."
        )
    placed = None
    if job.quant in quantize.FORMS:
        placed = placement.place(model, narrow_only=job.quant == "fp8")
        quantize.require_products(job, model, placed)
        if job.quant == "int8" and graph.mixes(model):
            samples = ranges.calibration_samples(job, quantize.MEND)
            count = balance.balance(model, placed, samples, Path(job.work), progress)
            placed = placement.place(model)
            if count:
                notes.append(
                    f"{count} activations are balanced against their weights by channel (SmoothQuant)."
                )
        observed, told = quantize.observed_ranges(job, model, placed, progress)
        notes.append(told)
    seen, count = _peaks(job, model, progress)
    beyond = overflowing(model, seen)
    notes += _kept(beyond, f"a value passes {half.LARGEST:g} on {count} samples")
    notes += _kept(exact, "positions and sizes are computed in it")
    if placed is not None:
        notes += _left(model, placed)
        quantize.quantize(job, model, observed, placed)
        files.tidy(model)
        notes.append(f"What is not {quantize.FORMS[job.quant].title} is float16.")
    return half.typed(model, "fp16", exact | beyond | _feeding(model, beyond)), tuple(notes)


def _peaks(job: Job, model: onnx.ModelProto, progress: Progress) -> tuple[Mapping[str, float], int]:
    """The largest magnitude of every float value on the samples, and how many there were."""
    folder = Path(str(job.samples))
    samples = SampleSet.open(
        folder / ("calibration" if (folder / "calibration" / "set.json").exists() else "held_out")
    )
    if samples.count > LOOKED_AT:
        samples = samples.copy_head(Path(job.work) / "looked-at", LOOKED_AT)
    names = ranges.float_values(model, list(model.graph.node))
    return ranges.peaks(model, names, samples, Path(job.work), progress), samples.count


def overflowing(model: onnx.ModelProto, seen: Mapping[str, float]) -> set[str]:
    """Names of the nodes that read or make a value beyond float16, which `seen` gives by name.

    Stored values count too: a weight of 1e6 would be infinite.
    """
    stored = {
        name
        for name, tensor in graph.float_weights(model).items()
        if abs(onnx.numpy_helper.to_array(tensor)).max(initial=0.0) > half.LARGEST
    }
    return {
        node.name
        for node in model.graph.node
        if any(name in stored or seen.get(name, 0.0) > half.LARGEST for name in (*node.input, *node.output))
    }


def _feeding(model: onnx.ModelProto, wide: set[str]) -> set[str]:
    """Names of the dequantizes that feed nodes in float32: no cast may stand between the two."""
    makers = {name: node for node in model.graph.node for name in node.output}
    return {
        makers[name].name
        for node in model.graph.node
        if node.name in wide
        for name in node.input
        if name in makers and makers[name].op_type == "DequantizeLinear"
    }


def _left(model: onnx.ModelProto, placed: placement.Placement) -> list[str]:
    """A sentence on the stored matrices that stay float16, heaviest first, where they are worth a word."""
    weights, reads = graph.float_weights(model), graph.readers(model)
    narrow = {read for where in placed.weights.values() for read in where}
    left: dict[str, int] = {}
    for name, tensor in weights.items():
        users = {node.op_type for node, at in reads.get(name, ()) if (node.name, at) not in narrow}
        if users and len(tensor.dims) > 1:
            for user in users:
                left[user] = left.get(user, 0) + 2 * int(onnx.numpy_helper.to_array(tensor).size)
    heavy = {user: size for user, size in left.items() if size >= WORTH_A_WORD}
    if not heavy:
        return []
    told = ", ".join(
        f"{user} ({size / 1e6:.1f} MB)" for user, size in sorted(heavy.items(), key=lambda one: -one[1])
    )
    return [f"Stored in float16: what {told} read; TensorRT multiplies in 8 bits and looks up in float."]


def _kept(names: set[str], why: str) -> list[str]:
    if not names:
        return []
    shown = ", ".join(sorted(names)[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return [f"In float32, because {why}: {shown}."]
