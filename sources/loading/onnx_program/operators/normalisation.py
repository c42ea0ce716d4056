"""Normalisations and softmax."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..call import Call, Operator


def batch_norm(call: Call) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """With the running statistics: inference; in training mode with its own, which it mixes into them."""
    x = call.tensor(0)
    if call.get("training_mode", 0):
        axes, kept = [axis for axis in range(x.dim()) if axis != 1], call.get("momentum", 0.9)
        mean, variance = x.mean(axes), x.var(axes, correction=0)
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = call.tensor(1) * torch.rsqrt(variance + call.get("epsilon", 1e-5))
        y = (x - mean.reshape(shape)) * scale.reshape(shape) + call.tensor(2).reshape(shape)
        mixed = (call.tensor(3) * kept + mean * (1 - kept), call.tensor(4) * kept + variance * (1 - kept))
        return (y, *mixed)[: call.outputs]
    if call.outputs > 1:
        raise call.refuse("of opset 8 in training mode")
    return F.batch_norm(
        x, call.tensor(3).to(x.dtype), call.tensor(4).to(x.dtype), call.tensor(1).to(x.dtype),
        call.tensor(2).to(x.dtype), False, 0.0, call.get("epsilon", 1e-5),
    )  # fmt: skip


def instance_norm(call: Call) -> torch.Tensor:
    """Each channel of each sample by itself."""
    return F.instance_norm(
        call.tensor(0), weight=call.tensor(1), bias=call.tensor(2), eps=call.get("epsilon", 1e-5)
    )


def layer_norm(call: Call) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Over `axis` and all after it; with the mean and 1 / deviation where they are outputs too."""
    x = call.tensor(0)
    if call.outputs > 1:
        axes = list(range(call.get("axis", -1) % x.dim(), x.dim()))
        mean = x.mean(axes, keepdim=True)
        inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
        normed = (x - mean) * inverse * call.tensor(1)
        return (normed + call.tensor(2) if call.has(2) else normed, mean, inverse)[: call.outputs]
    shape = list(x.shape[call.get("axis", -1) % x.dim() :])
    bias = call.tensor(2) if call.has(2) else None
    if list(call.tensor(1).shape) == shape and (bias is None or list(bias.shape) == shape):
        return F.layer_norm(x, shape, call.tensor(1), bias, call.get("epsilon", 1e-5))
    normed = F.layer_norm(x, shape, None, None, call.get("epsilon", 1e-5)) * call.tensor(1)
    return normed if bias is None else normed + bias


def rms_norm(call: Call) -> torch.Tensor:
    """x / sqrt(mean(x²) + epsilon) · scale, over `axis` and all after it."""
    x = call.tensor(0)
    axes = list(range(call.get("axis", -1) % x.dim(), x.dim()))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    normed = wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + call.get("epsilon", 1e-5))
    return normed.to(x.dtype) * call.tensor(1)


def group_norm(call: Call) -> torch.Tensor:
    """Scale and bias of each channel, or of each group before opset 21."""
    x, groups = call.tensor(0), call.get("num_groups")
    scale, bias = call.tensor(1), call.tensor(2)
    if scale.shape[0] != x.shape[1]:
        scale, bias = (value.repeat_interleave(x.shape[1] // groups) for value in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


def lp_norm(call: Call) -> torch.Tensor:
    """x / its norm along `axis`; zero where the norm is."""
    x, axis = call.tensor(0), call.get("axis", -1)
    size = (
        x.abs().sum(axis, keepdim=True)
        if call.get("p", 2) == 1
        else x.square().sum(axis, keepdim=True).sqrt()
    )
    return torch.where(
        size == 0, torch.zeros_like(x), x / torch.where(size == 0, torch.ones_like(size), size)
    )


def mean_variance(call: Call) -> torch.Tensor:
    """(x − mean) / deviation over the axes."""
    x, axes = call.tensor(0), list(call.get("axes") or (0, 2, 3))
    mean = x.mean(axes, keepdim=True)
    deviation = ((x * x).mean(axes, keepdim=True) - mean * mean).sqrt()
    return (x - mean) / (deviation + 1e-9)


def local_response(call: Call) -> torch.Tensor:
    """x / (bias + alpha / size · Σ x² over neighbouring channels)^beta."""
    x, size = call.tensor(0), call.get("size")
    flat = x.square().reshape(x.shape[0], 1, x.shape[1], -1)
    padded = F.pad(flat, [0, 0, (size - 1) // 2, math.ceil((size - 1) / 2)])
    total = F.avg_pool2d(padded, (size, 1), stride=1).reshape(x.shape)
    return x / (call.get("bias", 1.0) + call.get("alpha", 1e-4) * total) ** call.get("beta", 0.75)


def _softmax(call: Call, function: object) -> torch.Tensor:
    """Over one axis from opset 13 on; before, over all axes from it on."""
    x = call.tensor(0)
    run = F.softmax if function == "softmax" else F.log_softmax
    if call.opset >= 13:
        return run(x, call.get("axis", -1))
    axis = call.get("axis", 1) % max(x.dim(), 1)
    return run(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(x.shape)


def hardmax(call: Call) -> torch.Tensor:
    """1 at the first largest, 0 elsewhere."""
    x = call.tensor(0)
    axis = call.get("axis", -1 if call.opset >= 13 else 1)
    if call.opset < 13:
        flat = x.reshape(math.prod(x.shape[:axis]), -1)
        return F.one_hot(flat.argmax(1), flat.shape[1]).to(x.dtype).reshape(x.shape)
    return F.one_hot(x.argmax(axis), x.shape[axis]).movedim(-1, axis).to(x.dtype)


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": batch_norm, "InstanceNormalization": instance_norm, "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm, "GroupNormalization": group_norm, "LpNormalization": lp_norm,
    "MeanVarianceNormalization": mean_variance, "LRN": local_response,
    "Softmax": lambda call: _softmax(call, "softmax"), "LogSoftmax": lambda call: _softmax(call, "log"),
    "Hardmax": hardmax,
}  # fmt: skip
