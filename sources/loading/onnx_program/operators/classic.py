"""Operators of the domain ai.onnx.ml that are functions of tensors: linear models and what stands before them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..call import Call, Operator


def feature_extractor(call: Call) -> torch.Tensor:
    """The columns at known or given places of the last axis; one row at least."""
    x = call.tensor(0)
    x = x.reshape(1, -1) if x.dim() == 1 else x
    return torch.index_select(x, x.dim() - 1, call.tensor(1).long().reshape(-1))


def _linear(call: Call, classes: int) -> torch.Tensor:
    x = call.tensor(0)
    x = (x if x.is_floating_point() else x.float()).reshape(-1, x.shape[-1])
    weight = _numbers(call.get("coefficients")).reshape(classes, -1)
    if weight.shape[1] != x.shape[1]:
        raise call.refuse(
            f"with {weight.numel()} coefficients of {classes} classes and {x.shape[1]} features"
        )
    return F.linear(x, weight.to(x.dtype), _numbers(call.get("intercepts") or [0.0] * classes).to(x.dtype))


def _numbers(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def _after(call: Call, scores: torch.Tensor) -> torch.Tensor:
    transform = call.get("post_transform", "NONE")
    if transform == "SOFTMAX":
        return torch.softmax(scores, -1)
    if transform == "LOGISTIC":
        return torch.sigmoid(scores)
    if transform != "NONE":
        raise call.refuse(f"with post_transform {transform}")
    return scores


def linear_classifier(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels, which must be integers, and a score of each class."""
    labels = call.get("classlabels_ints")
    if not labels:
        raise call.refuse("whose labels are texts")
    scores = _linear(call, len(labels))
    return torch.tensor(labels)[scores.argmax(-1)], _after(call, scores)


def linear_regressor(call: Call) -> torch.Tensor:
    """A value of each target."""
    return _after(call, _linear(call, call.get("targets", 1)))


def scaler(call: Call) -> torch.Tensor:
    """(x − offset) · scale."""
    x = call.tensor(0).float()
    return (x - _numbers(call.get("offset") or [0.0])) * _numbers(call.get("scale") or [1.0])


def normalizer(call: Call) -> torch.Tensor:
    """Rows over their largest size, their sum of sizes or their length; rows of zeros stay."""
    x, norm = call.tensor(0).float(), call.get("norm", "MAX")
    size = {
        "MAX": lambda: x.abs().amax(-1, keepdim=True),
        "L1": lambda: x.abs().sum(-1, keepdim=True),
        "L2": lambda: x.square().sum(-1, keepdim=True).sqrt(),
    }[norm]()
    return x / torch.where(size == 0, torch.ones_like(size), size)


def binarizer(call: Call) -> torch.Tensor:
    """1 above the threshold, else 0."""
    x = call.tensor(0)
    return (x > call.get("threshold", 0.0)).to(x.dtype)


OPERATORS: dict[str, Operator] = {
    "ArrayFeatureExtractor": feature_extractor, "LinearClassifier": linear_classifier,
    "LinearRegressor": linear_regressor, "Scaler": scaler, "Normalizer": normalizer, "Binarizer": binarizer,
}  # fmt: skip
"""Their names are none of ai.onnx."""
