"""Activation ranges: the float graph is run on the calibration samples and every value is observed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...calibration import observers
from ...calibration.samples import SampleSet
from ...sources.loading.onnx_model import as_input
from ...targets.errors import UsageError
from ..job import Job, Progress
from . import files

Ranges = Mapping[str, tuple[float, float]]
"""Lowest and highest value to represent, by value name; 0 lies between them."""


def calibration_samples(job: Job, mend: str) -> SampleSet:
    """The samples that ranges are found on; UsageError with this `mend` where there are none."""
    folder = Path(job.samples) / "calibration" if job.samples else None
    if folder is None or not (folder / "set.json").exists():
        raise UsageError(
            f"static {job.quant} needs samples to find the activations' ranges",
            where="--calibration",
            mend=mend,
        )
    return SampleSet.open(folder)


def float_values(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> tuple[str, ...]:
    """Float values that these nodes read or make, in graph order: those whose range must be known."""
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    stored = {tensor.name for tensor in model.graph.initializer}
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output))
    return tuple(name for name in names if name not in stored and kinds.get(name) == onnx.TensorProto.FLOAT)


def observe(
    model: onnx.ModelProto,
    names: tuple[str, ...],
    samples: SampleSet,
    observer: str,
    work: Path,
    progress: Progress,
    *,
    symmetric: bool = False,
) -> Ranges:
    """The range of each value in `names` by the observer of that name (`calibration.observers.OBSERVERS`)."""
    make = observers.make(observer, symmetric=symmetric)
    watching = {name: make() for name in names}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    # Two numbers a value leave the graph instead of the whole of it where the observer needs no more.
    outputs = _extremes(probe, names) if observer == "minmax" else _whole(probe, names)
    for name, values in _seen(probe, outputs, samples, work, progress):
        watching[name].observe(values)
    return {name: seen.range() for name, seen in watching.items()}


def peaks(
    model: onnx.ModelProto, names: tuple[str, ...], samples: SampleSet, work: Path, progress: Progress
) -> Mapping[str, float]:
    """The largest finite magnitude that each value takes on the samples; 0.0 for one that is never finite."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    found = dict.fromkeys(names, 0.0)
    for name, values in _seen(probe, _extremes(probe, names), samples, work, progress):
        finite = np.abs(values[np.isfinite(values)])
        found[name] = max(found[name], float(finite.max(initial=0.0)))
    return found


def channel_peaks(
    model: onnx.ModelProto, names: tuple[str, ...], samples: SampleSet, work: Path, progress: Progress
) -> Mapping[str, np.ndarray[Any, Any]]:
    """The largest magnitude of each channel (last axis) of each value on the samples: shape (channels,)."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*probe.graph.value_info, *probe.graph.input, *probe.graph.output)
    }
    outputs = {}
    for name in names:
        size, peak = f"{name}_modelport_size", f"{name}_modelport_peak"
        axes = helper.make_tensor(
            f"{name}_modelport_axes", onnx.TensorProto.INT64, [ranks[name] - 1], range(ranks[name] - 1)
        )
        probe.graph.initializer.append(axes)
        probe.graph.node.append(helper.make_node("Abs", [name], [size], size))
        probe.graph.node.append(helper.make_node("ReduceMax", [size, axes.name], [peak], peak, keepdims=0))
        probe.graph.output.append(helper.make_tensor_value_info(peak, onnx.TensorProto.FLOAT, None))
        outputs[name] = (peak,)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, values in _seen(probe, outputs, samples, work, progress):
        found[name] = np.maximum(found[name], values) if name in found else values
    return found


def _seen(
    probe: onnx.ModelProto,
    outputs: Mapping[str, tuple[str, ...]],
    samples: SampleSet,
    work: Path,
    progress: Progress,
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Each value's name and what its outputs hold, flat, sample after sample."""
    session = files.session(probe, work)
    kinds = {given.name: given.type for given in session.get_inputs()}
    missing = sorted(kinds.keys() - samples.inputs.keys())
    if missing:
        raise UsageError(f"the calibration data has no input {', '.join(missing)}", where="--calibration")
    free = any(
        not isinstance(given.shape[1], int)
        for given in session.get_inputs()
        if "int" in given.type and len(given.shape) == 2
    )
    wanted = [output for group in outputs.values() for output in group]
    for index, feed in enumerate(samples.feeds(trim=free)):
        progress("observe activations", index, samples.count)
        values = iter(session.run(wanted, {name: as_input(feed[name], kind) for name, kind in kinds.items()}))
        for name, group in outputs.items():
            yield name, np.concatenate([np.ravel(next(values)) for _ in group])
    progress("observe activations", samples.count, samples.count)


def _extremes(model: onnx.ModelProto, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Let the graph itself find the least and the greatest of each value, in place: output names by value."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        pair = (f"{name}_modelport_least", f"{name}_modelport_greatest")
        for operator, output in zip(("ReduceMin", "ReduceMax"), pair, strict=True):
            model.graph.node.append(helper.make_node(operator, [name], [output], output, keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ()))
        found[name] = pair
    return found


def _whole(model: onnx.ModelProto, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Make each value an output, in place: output names by value."""
    given = {value.name for value in model.graph.output}
    for name in names:
        if name not in given:
            model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return {name: (name,) for name in names}
