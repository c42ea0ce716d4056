"""Sorting, ranking, running sums, and the choice of boxes."""

from __future__ import annotations

import torch

from ...targets.errors import SourceUnreadable
from ..program import Operation
from ..values import Inputs, OpFunction, Tensor, bounded
from .checks import axis_of


def topk(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The k largest (or smallest) elements on `axis`, sorted, and where they were; k = -1 takes all.

    Equal elements keep their order. Where `sort` is off Core ML promises no order, and sorted is one of them.
    """
    data = x["x"]
    axis = axis_of(x.integer("axis", -1), data.dim(), op)
    count = x.integer("k", 1)
    count = data.shape[axis] if count == -1 else count
    if not 0 <= count <= data.shape[axis]:
        raise SourceUnreadable(f"k is {count} on an axis of {data.shape[axis]}", where=op.name)
    values, indices = _sorted(data, axis, x.flag("ascending", False))
    result = values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
    return result if x.flag("return_indices", True) else result[:1]


def argsort(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Where the sorted elements on `axis` were; descending by default, equal ones in their order."""
    data = x["x"]
    axis = axis_of(x.integer("axis", -1), data.dim(), op)
    return (_sorted(data, axis, x.flag("ascending", False))[1],)


def _sorted(data: Tensor, axis: int, ascending: bool) -> tuple[Tensor, Tensor]:
    values, indices = torch.sort(data, dim=axis, descending=not ascending, stable=True)
    return values, indices


def cumsum(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Running sums on `axis`; `exclusive` starts at zero, `reverse` runs from the end."""
    data = x["x"]
    axis = axis_of(x.integer("axis", 0), data.dim(), op)
    reverse = x.flag("reverse", False)
    if reverse:
        data = data.flip(axis)
    sums = torch.cumsum(data, dim=axis)
    if x.flag("exclusive", False):
        sums = sums.roll(1, dims=axis)
        sums.narrow(axis, 0, min(1, sums.shape[axis])).zero_()
    return (sums.flip(axis) if reverse else sums,)


def non_maximum_suppression(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """The best boxes, without those that overlap a better one by more than `iou_threshold`.

    Boxes are (centre x, centre y, width, height). Up to iOS16 they come as [n, B, 4] with scores [n, B, K] and a
    score threshold, and the numbers of chosen boxes go out as well; from iOS17 on as [n, 4, B] and [n, K, B].
    Unused places hold zeros, and -1 as index; where nothing passes the threshold, the best box stays.
    """
    old, count = "score_threshold" in x, x.integer("max_boxes")
    boxes, scores = (x[name] if old else x[name].transpose(1, 2) for name in ("boxes", "scores"))
    shape = bounded((boxes.shape[0], count), op.name)
    threshold = x.number("score_threshold") if old else None
    indices = torch.full(shape, -1, dtype=torch.int64)
    for place in range(shape[0]):
        chosen = _chosen(boxes[place], scores[place], x, threshold)[:count]
        indices[place, : len(chosen)] = torch.tensor(chosen, dtype=torch.int64)
    used = (indices >= 0).unsqueeze(-1)
    result = [
        torch.take_along_dim(values, indices.clamp(min=0).unsqueeze(-1), dim=1) * used
        for values in (boxes, scores)
    ]
    if not old:
        return result[0].transpose(1, 2), result[1].transpose(1, 2), indices
    return result[0], result[1], indices, used.sum(dim=(1, 2))


def _chosen(boxes: Tensor, scores: Tensor, x: Inputs, threshold: float | None) -> list[int]:
    """The numbers of the boxes that stay, best first."""
    best, kinds = scores.max(dim=-1)
    order = torch.sort(best, descending=True, stable=True).indices.tolist()
    overlaps = _overlaps(boxes)
    limit, by_class = x.number("iou_threshold"), x.flag("per_class_suppression", False)
    chosen: list[int] = []
    for candidate in order:
        if threshold is not None and not best[candidate] > threshold:
            break
        rivals = [other for other in chosen if not by_class or kinds[other] == kinds[candidate]]
        if not rivals or not bool((overlaps[candidate, rivals] > limit).any()):
            chosen.append(candidate)
    return chosen or order[:1]


def _overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of every pair of boxes; boxes without an area overlap nothing."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    low, high = centre - size / 2, centre + size / 2
    common = (torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)).clamp(min=0).prod(dim=-1)
    area = size.prod(dim=-1)
    union = area[:, None] + area - common
    return torch.where(union > 0, common / union, torch.zeros(()))


OPS: dict[str, OpFunction] = {
    "argsort": argsort,
    "cumsum": cumsum,
    "non_maximum_suppression": non_maximum_suppression,
    "topk": topk,
}
