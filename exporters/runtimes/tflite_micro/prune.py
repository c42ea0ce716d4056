"""Structured magnitude pruning: whole channels go, those with the smallest weights, and the loss is measured.

Li et al., "Pruning Filters for Efficient ConvNets" (arXiv:1608.08710): filters are ranked by the sum of the absolute
values of their weights. Nothing is trained afterwards, so only little can go without a loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...litert import flatbuffer
from ...litert.flatbuffer import SIGNATURE, Graph
from .channels import Channels, Group, cut, reshape_again, separate

if TYPE_CHECKING:
    import numpy as np

    Feeds = Callable[[], Iterable[Mapping[str, np.ndarray[Any, Any]]]]


@dataclass(frozen=True)
class Loss:
    """How far the pruned float model is from the float model on the calibration samples."""

    cosine: float
    """Mean over samples, of all outputs together."""
    top1: float | None
    """Share of samples with the same largest score; None where the output is no row of scores."""

    def __str__(self) -> str:
        agreed = "" if self.top1 is None else f", the same first choice on {self.top1:.1%}"
        return f"cosine {self.cosine:.4f}{agreed} on the calibration samples, before any training"


def prune(model: Any, share: float) -> tuple[Any, int, int] | None:
    """A copy of the float model (ModelT) without `share` of the channels of each layer, how many went, and of how many.

    None where no layer may lose a channel: their number is part of the inputs or outputs, or of operators that mix it.
    """
    pruned = copy.deepcopy(model)
    separate(pruned)
    groups = Channels(Graph(pruned)).groups()
    gone = 0
    for group in groups:
        keep = kept(Graph(model), group, share)
        gone += group.size - len(keep)
        cut(pruned, group, keep)
    if not gone:
        return None
    reshape_again(pruned)
    return pruned, gone, sum(group.size for group in groups)


def kept(graph: Graph, group: Group, share: float) -> list[int]:
    """Channels that stay, in their order: the largest sums of absolute weights, each layer's scaled to a mean of 1."""
    import numpy as np

    scores = np.zeros(group.size)
    for tensor, axis in group.makers:
        weights = np.abs(graph.values(tensor))
        each = weights.sum(tuple(a for a in range(weights.ndim) if a != axis), dtype=np.float64)
        scores += each / max(float(each.mean()), 1e-30)
    stay = max(1, math.ceil(group.size * (1 - share)))
    return sorted(np.argsort(-scores, kind="stable")[:stay].tolist())


def loss(before: Any, after: Any, feeds: Feeds) -> Loss:
    """Both float models run over every feed (arrays by the artifact's input name)."""
    import numpy as np

    one, other = _runner(before), _runner(after)
    cosines, same = [], []
    for feed in feeds():
        wanted, given = one(feed), other(feed)
        flat = [
            np.concatenate([v.reshape(-1).astype(np.float64) for v in outs.values()])
            for outs in (wanted, given)
        ]
        norms = float(np.linalg.norm(flat[0]) * np.linalg.norm(flat[1]))
        cosines.append(float(flat[0] @ flat[1]) / norms if norms else float(np.array_equal(flat[0], flat[1])))
        for name, scores in wanted.items():
            if scores.ndim == 2 and scores.shape[1] > 1:
                same.append(bool(scores.argmax(1)[0] == given[name].argmax(1)[0]))
    return Loss(float(np.mean(cosines)), float(np.mean(same)) if same else None)


def _runner(model: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=flatbuffer.write(model), num_threads=1)
    runner = interpreter.get_signature_runner(SIGNATURE)
    dtypes = {name: detail["dtype"] for name, detail in runner.get_input_details().items()}

    def run(feed: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = runner(**{n: np.ascontiguousarray(feed[n], d) for n, d in dtypes.items()})
        return made

    return run
