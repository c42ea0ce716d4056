"""Ranges of activations, from running the float model over the calibration samples."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...calibration import observers
from ...calibration.ranges import Range, Watch
from ...calibration.samples import SampleSet
from ...targets.errors import ConversionFailed
from ..job import Job, Port, Progress
from ..ports import to_artifact
from .flatbuffer import SIGNATURE, Graph

if TYPE_CHECKING:
    import numpy as np

    Feed = Mapping[str, np.ndarray[Any, Any]]


def observe(
    job: Job, data: bytes, graph: Graph, tensors: Iterable[int], inputs: Sequence[Port], progress: Progress
) -> tuple[dict[int, Range], str]:
    """The range of each of `tensors` over the job's calibration samples, by its "observer" ("minmax"), and a note."""
    observer = str(job.options.get("observer") or "minmax")
    samples = SampleSet.open(Path(str(job.samples)) / "calibration")

    def feeds() -> Iterator[Feed]:
        for index, feed in enumerate(samples.feeds()):
            progress("calibrate", index, samples.count)
            yield to_artifact(feed, inputs)

    seen = collect(data, graph, tensors, feeds(), observer)
    progress("calibrate", samples.count, samples.count)
    return seen, f"Ranges of {len(seen)} activations from {samples.count} samples by {observer}"


def collect(
    data: bytes, graph: Graph, tensors: Iterable[int], feeds: Iterable[Feed], observer: str
) -> dict[int, Range]:
    """The range of each of `tensors` (indices) over all `feeds` (arrays by the artifact's input name).

    Runs the float model in LiteRT with every intermediate kept. Raises ConversionFailed when there is no
    feed or the model cannot run.
    """
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        # It warns that keeping intermediates costs memory, which is what they are for here.
        warnings.simplefilter("ignore")
        interpreter = Interpreter(
            model_content=data,
            num_threads=min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1),
            experimental_preserve_all_tensors=True,
        )
    runner = interpreter.get_signature_runner(SIGNATURE)
    dtypes = {name: detail["dtype"] for name, detail in runner.get_input_details().items()}
    make = observers.make(observer)
    seen = {tensor: Watch(make(), feature_map=graph.is_feature_map(tensor)) for tensor in sorted(tensors)}
    empty = True
    for feed in feeds:
        empty = False
        runner(**{name: np.ascontiguousarray(feed[name], dtype) for name, dtype in dtypes.items()})
        for tensor, watching in seen.items():
            watching.observe(interpreter.get_tensor(tensor))
    if empty:
        raise ConversionFailed("there is no calibration sample", mend="Give data with --calibration")
    return {tensor: watching.range() for tensor, watching in seen.items()}


def statistics_by_name(graph: Graph, ranges: Mapping[int, Range]) -> dict[str, dict[str, Any]]:
    """The ranges as ai-edge-quantizer takes them, by tensor name."""
    import numpy as np

    return {
        graph.name(tensor): {
            "min": np.array([found.low], np.float32),
            "max": np.array([found.high], np.float32),
        }
        for tensor, found in ranges.items()
    }
