"""Ranges of activations, from running the float model over the calibration samples."""

from __future__ import annotations

import math
import os
import statistics
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....calibration import observers
from ....calibration.observers import MinMax
from ....targets.errors import ConversionFailed
from .flatbuffer import SIGNATURE, Graph

if TYPE_CHECKING:
    import numpy as np

    Feed = Mapping[str, np.ndarray[Any, Any]]

SENTINEL = 1e30
"""Beyond it a value stands for infinity: padding before a maximum, masked attention scores."""


@dataclass(frozen=True)
class Range:
    """What one activation tensor was seen to hold; `low` and `high` are the observer's choice."""

    low: float
    high: float
    span: float
    """From the smallest to the largest value (or zero) that was seen, whatever the observer cut off."""
    power: float
    """Mean square of a typical row (last axis; of the whole tensor for feature maps): the median over all."""

    @property
    def sqnr_db(self) -> float:
        """Signal to noise in dB when a typical row is rounded to 8 bits over all that was seen.

        Uniform noise of one step s has the power s²/12 (Widrow and Kollár, "Quantization Noise", 2008). One
        row with huge values makes the step coarse for all others, and this figure falls.
        """
        step = self.span / 255
        if step == 0 or self.power == 0:
            return math.inf
        return 10 * math.log10(self.power / (step * step / 12))


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
    factory = observers.make(observer)
    seen = {tensor: factory() for tensor in sorted(tensors)}
    extremes = {tensor: MinMax() for tensor in seen}
    maps = {tensor for tensor in seen if graph.is_feature_map(tensor)}
    powers: dict[int, list[float]] = {tensor: [] for tensor in seen}
    for feed in feeds:
        runner(**{name: np.ascontiguousarray(feed[name], dtype) for name, dtype in dtypes.items()})
        for tensor, watching in seen.items():
            values = interpreter.get_tensor(tensor)
            if tensor in maps:
                powers[tensor].append(float(np.mean(np.square(values, dtype=np.float64))))
            else:
                powers[tensor].append(_typical_row(values))
            values = _without_sentinels(values)
            watching.observe(values)
            extremes[tensor].observe(values)
    if not all(powers.values()):
        raise ConversionFailed("there is no calibration sample", mend="Give data with --calibration")
    return {
        tensor: Range(*watching.range(), _span(extremes[tensor]), statistics.median(powers[tensor]))
        for tensor, watching in seen.items()
    }


def _span(extremes: MinMax) -> float:
    low, high = extremes.range()
    return high - low


def _typical_row(values: np.ndarray[Any, Any]) -> float:
    """Median over the rows that are not all zero of a row's mean square."""
    import numpy as np

    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    means = np.einsum("ij,ij->i", rows, rows) / max(rows.shape[1], 1)
    means = means[means > 0]
    return float(np.median(means)) if means.size else 0.0


def _without_sentinels(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    if values.size and (values.min() < -SENTINEL or values.max() > SENTINEL):
        inside: np.ndarray[Any, Any] = values[np.abs(values) < SENTINEL]
        return inside if inside.size else np.zeros(1, np.float32)
    return values


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
