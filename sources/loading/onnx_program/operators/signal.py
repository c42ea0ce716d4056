"""Fourier transforms as products with known cosines and sines, and the windows that go before them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import helper

from ..call import Call, Operator

Array = np.ndarray[Any, Any]


def dft(call: Call) -> torch.Tensor:
    """Along one axis; the last axis holds the real part, or both parts."""
    x = call.tensor(0)
    axis = call.get("axis", 1) if call.opset < 20 else -2
    axis = (int(call.known(2).reshape(-1)[0]) if call.has(2) else axis) % x.dim()
    onesided, inverse = bool(call.get("onesided", 0)), bool(call.get("inverse", 0))
    halved = onesided and inverse
    size = 2 * (x.shape[axis] - 1) if halved else x.shape[axis]
    size = int(call.known(1).reshape(-1)[0]) if call.has(1) else size
    bins = size // 2 + 1
    given, wanted = (bins if halved else size), (bins if onesided and not inverse else size)
    x = x.narrow(axis, 0, min(given, x.shape[axis])).movedim(axis, -1)
    angle = 2 * np.pi * np.outer(np.arange(x.shape[-1]), np.arange(wanted)) / size
    weights = np.full(x.shape[-1], 1 / size if inverse else 1.0)
    if halved:
        # Each bin but the first, and the middle one of an even size, stands for its mirror too.
        weights[1 : (size + 1) // 2] *= 2
    cosines, sines = (
        np.cos(angle) * weights[:, None],
        np.sin(angle) * weights[:, None] * (1 if inverse else -1),
    )
    real, imaginary = _turned(x, cosines, sines)
    parts = [real] if halved else [real, imaginary]
    return torch.stack(parts, -1).movedim(-2, axis)


def _turned(x: torch.Tensor, cosines: Array, sines: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary part of x, whose parts lie on axis -2, times the matrix."""
    c, s = (torch.from_numpy(matrix).to(x.dtype) for matrix in (cosines, sines))
    parts = x.unbind(-2)
    if len(parts) == 1:
        return parts[0] @ c, parts[0] @ s
    return parts[0] @ c - parts[1] @ s, parts[0] @ s + parts[1] @ c


def stft(call: Call) -> torch.Tensor:
    """(batch, frames, bins, 2): the transform of each frame, times the window."""
    x, step = call.tensor(0), int(call.known(1).reshape(-1)[0])
    window = call.tensor(2) if call.has(2) else None
    size = int(call.known(3).reshape(-1)[0]) if call.has(3) else 0
    size = size or (0 if window is None else window.shape[0])
    length = size if window is None else window.shape[0]
    frames = 1 + (x.shape[1] - length) // step
    places = np.arange(frames)[:, None] * step + np.arange(length)[None]
    cut = torch.index_select(x, 1, torch.from_numpy(places.reshape(-1)))
    cut = cut.reshape(x.shape[0], frames, length, -1)
    cut = cut if window is None else cut * window.reshape(1, 1, -1, 1)
    bins = size // 2 + 1 if call.get("onesided", 1) else size
    angle = 2 * np.pi * np.outer(np.arange(length), np.arange(bins)) / size
    return torch.stack(_turned(cut.movedim(2, -1), np.cos(angle), -np.sin(angle)), -1)


def _window(*terms: float) -> Operator:
    """A sum of cosines; without `periodic` its ends are equal."""

    def run(call: Call) -> Array:
        size = int(call.known(0).reshape(-1)[0])
        period = size if call.get("periodic", 1) else size - 1
        angle = 2 * np.pi * np.arange(size) / max(period, 1)
        values = sum(term * np.cos(k * angle) for k, term in enumerate(terms))
        return np.asarray(values, helper.tensor_dtype_to_np_dtype(call.get("output_datatype", 1)))

    return run


OPERATORS: dict[str, Operator] = {
    "DFT": dft, "STFT": stft, "HannWindow": _window(0.5, -0.5), "HammingWindow": _window(25 / 46, -21 / 46),
    "BlackmanWindow": _window(0.42, -0.5, 0.08),
}  # fmt: skip
