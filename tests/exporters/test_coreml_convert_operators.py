"""Torch operators on their way into a Core ML package, each as a user writes it, held against torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from coreml_convert import converted  # noqa: E402

pytestmark = pytest.mark.slow

IMAGE, ROWS, CUBE = (1, 4, 8, 8), (3, 6), (2, 3, 4)

Case = tuple[Callable[..., Any], tuple[int, ...]]

CASES: dict[str, Case] = {
    # What left defaults out, and failed in coremltools.
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), IMAGE),
    "max_pool2d with a stride": (lambda x: F.max_pool2d(x, 3, 1, 1), IMAGE),
    "max_pool1d": (lambda x: F.max_pool1d(x, 2), CUBE),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), IMAGE),
    "avg_pool2d without the padding": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), IMAGE),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 2), CUBE),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (2, 2)), IMAGE),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 1), IMAGE),
    # What a mask or position is made of.
    "new_ones": (lambda x: x + x.new_ones(6), ROWS),
    "new_full": (lambda x: x * x.new_full((6,), 2.0), ROWS),
    "and": (lambda x: torch.where((x > 0) & (x < 1), x, 0.0), ROWS),
    "or": (lambda x: torch.where((x < 0) | (x > 1), x, -1.0), ROWS),
    "xor": (lambda x: torch.where((x < 0) ^ (x > 1), x, -1.0), ROWS),
    "not": (lambda x: torch.where(~(x < 0), 1.0, 2.0), ROWS),
    "where of scalars": (lambda x: torch.where(x > 0, 0.0, torch.finfo(x.dtype).min).clamp(min=-5), ROWS),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -3.0), ROWS),
    "tril": (lambda x: x.tril(), ROWS),
    "triu": (lambda x: x @ torch.ones(6, 6).triu(1), ROWS),
    "arange": (lambda x: x + torch.arange(6), ROWS),
    "one_hot": (lambda x: F.one_hot(x.argmax(1), 6).float(), ROWS),
    "cumsum": (lambda x: x.cumsum(1), ROWS),
    # In place, views and indices.
    "add_": (lambda x: (x * 1).add_(1).relu_(), ROWS),
    "slices": (lambda x: x[:, 1:5:2] + x[:, -2:], ROWS),
    "assigned slice": (lambda x: _assigned(x), ROWS),
    "index": (lambda x: x[:, torch.tensor([0, 3, 2])], ROWS),
    "index_select": (lambda x: x.index_select(1, torch.tensor([5, 0])), ROWS),
    "gather": (lambda x: x.gather(1, torch.tensor([[0, 1], [2, 3], [4, 5]])), ROWS),
    "chunk": (lambda x: torch.cat(x.chunk(3, 1)[::-1], 1), ROWS),
    "unbind": (lambda x: torch.stack(x.unbind(0)[::-1]), ROWS),
    "flip": (lambda x: x.flip(1), ROWS),
    "roll": (lambda x: x.roll(2, 1), ROWS),
    "repeat": (lambda x: x.repeat(2, 2), ROWS),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), ROWS),
    "expand": (lambda x: x[:, :1].expand(3, 6) + x, ROWS),
    "unfold": (lambda x: F.unfold(x, 2), IMAGE),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), IMAGE),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), IMAGE),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), IMAGE),
    "squeeze": (lambda x: x.unsqueeze(0).squeeze(), ROWS),
    "movedim": (lambda x: x.movedim(0, 2), CUBE),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1), value=1.5), IMAGE),
    "reflect": (lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), IMAGE),
    "replicate": (lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"), IMAGE),
    # Arithmetic.
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=0.5), ROWS),
    "lerp": (lambda x: torch.lerp(x, x * 2, 0.3), ROWS),
    "logaddexp": (lambda x: torch.logaddexp(x, x * 2), ROWS),
    "floor_divide": (lambda x: (x * 10) // 3, ROWS),
    "remainder": (lambda x: torch.remainder(x * 10, 3), ROWS),
    "fmod": (lambda x: torch.fmod(x * 10, 3), ROWS),
    "pow": (lambda x: x.abs() ** 1.5, ROWS),
    "rsub": (lambda x: 1 - x, ROWS),
    "reciprocal": (lambda x: 1 / (x.abs() * 1e-3 + 1e-4), ROWS),
    "reciprocal of integers": (lambda x: (x * 10).long().abs().add(1).reciprocal(), ROWS),
    "rsqrt": (lambda x: (x.abs() + 1).rsqrt(), ROWS),
    "expm1": (lambda x: torch.expm1(x), ROWS),
    "log1p": (lambda x: torch.log1p(x.abs()), ROWS),
    "erf": (lambda x: torch.erf(x), ROWS),
    "sign": (lambda x: torch.sign(x) + torch.round(x) + torch.trunc(x) + torch.ceil(x), ROWS),
    "atan2": (lambda x: torch.atan2(x, x + 2), ROWS),
    "sinh": (lambda x: torch.sinh(x) + torch.cosh(x) + torch.tan(x * 0.3), ROWS),
    "clamp": (lambda x: x.clamp(-0.5, 0.5) + x.clamp_min(0.1) + x.clamp_max(0.2), ROWS),
    "maximum": (lambda x: torch.maximum(x, -x) + torch.minimum(x, x * 2), ROWS),
    "isnan": (lambda x: torch.where(torch.isnan(x), 0.0, x), ROWS),
    "nan_to_num": (lambda x: torch.nan_to_num(x), ROWS),
    "einsum": (lambda x: torch.einsum("abc,adc->abd", x, x), CUBE),
    "baddbmm": (lambda x: torch.baddbmm(torch.ones(2, 3, 3), x, x.transpose(1, 2), beta=0.5, alpha=2), CUBE),
    "tensordot": (lambda x: torch.tensordot(x, x, dims=([2], [2])), CUBE),
    "cdist": (lambda x: torch.cdist(x, x + 1), CUBE),
    "complex root": (lambda x: torch.linalg.vector_norm(x, dim=1), ROWS),
    # Reductions.
    "mean": (lambda x: x.mean((1, 2), keepdim=True), CUBE),
    "var": (lambda x: x.var(1) + x.std(1, unbiased=False), ROWS),
    "logsumexp": (lambda x: x.logsumexp(1), ROWS),
    "amax": (lambda x: x.amax(1) + x.amin(1), ROWS),
    "max of an axis": (lambda x: x.max(1).values + x.min(1).values, ROWS),
    "prod": (lambda x: x.prod(1), ROWS),
    "argmax": (lambda x: x.argmax(1).float() + x.argmin(1).float(), ROWS),
    "topk": (lambda x: x.topk(2, 1).values, ROWS),
    "sort": (lambda x: x.sort(1).values, ROWS),
    "any": (lambda x: torch.where((x > 1).any(1, keepdim=True), x, 0.0), ROWS),
    "all": (lambda x: torch.where((x > -1).all(1, keepdim=True), x, 0.0), ROWS),
    # Activations and norms.
    "gelu": (lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"), ROWS),
    "silu": (lambda x: F.silu(x) + F.mish(x) + F.hardswish(x) + F.hardsigmoid(x), ROWS),
    "softplus": (lambda x: F.softplus(x) + F.elu(x) + F.selu(x) + F.celu(x, 0.7), ROWS),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2) + F.relu6(x * 4) + F.hardtanh(x), ROWS),
    "shrinks": (lambda x: F.softshrink(x, 0.3) + F.hardshrink(x, 0.3) + F.tanhshrink(x), ROWS),
    "logsigmoid": (lambda x: F.logsigmoid(x) + F.softsign(x), ROWS),
    "threshold": (lambda x: F.threshold(x, 0.1, -2.0), ROWS),
    "glu": (lambda x: F.glu(x, 1), ROWS),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3, 0.4])), IMAGE),
    "softmax": (lambda x: F.softmax(x, 1) + F.log_softmax(x, 1) + F.softmin(x, 1), ROWS),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), ROWS),
    "rms_norm": (lambda x: F.rms_norm(x, (6,)), ROWS),
    "group_norm": (lambda x: F.group_norm(x, 2), IMAGE),
    "instance_norm": (lambda x: F.instance_norm(x), IMAGE),
    "local_response_norm": (lambda x: F.local_response_norm(x, 2), IMAGE),
    "normalize": (lambda x: F.normalize(x, dim=1), ROWS),
    "cosine_similarity": (lambda x: F.cosine_similarity(x, x + 1), ROWS),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), CUBE),
    "causal attention": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), CUBE),
    # Images.
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
    "bilinear": (lambda x: F.interpolate(x, size=(12, 12), mode="bilinear", align_corners=False), IMAGE),
    "bilinear corners": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        IMAGE,
    ),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), IMAGE),
    "grid_sample": (lambda x: F.grid_sample(x, _grid(), align_corners=False), IMAGE),
    "conv_transpose2d": (lambda x: F.conv_transpose2d(x, torch.ones(4, 2, 3, 3), stride=2, padding=1), IMAGE),
    "grouped conv": (lambda x: F.conv2d(x, torch.ones(4, 2, 3, 3), padding="same", groups=2), IMAGE),
    "conv1d": (lambda x: F.conv1d(x, torch.ones(5, 3, 2), dilation=2), CUBE),
}


def _assigned(x: Any) -> Any:
    x = x.clone()
    x[:, 1:3] = 0.5
    return x


def _grid() -> Any:
    line = torch.linspace(-0.9, 0.9, 5)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None]


def _groups() -> list[list[str]]:
    """Names of cases that are converted together, since a conversion costs much and an operator little."""
    found = []
    for shape in (IMAGE, ROWS, CUBE):
        names = [name for name, case in CASES.items() if case[1] == shape]
        found += [names[start : start + 16] for start in range(0, len(names), 16)]
    return found


@pytest.mark.parametrize("names", _groups(), ids=lambda names: names[0])
def test_operators_compute_what_torch_computes(names: list[str], tmp_path: Path) -> None:
    shape = CASES[names[0]][1]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(names)))

    def all_of_them(x: Any) -> tuple[Any, ...]:
        return tuple(CASES[name][0](x) for name in names)

    source, evaluator = converted(all_of_them, x, folder=tmp_path, outputs=len(names))
    got = evaluator.run({"x0": x.numpy()})
    assert [port.source for port in source.outputs] == [f"y{index}" for index in range(len(names))]
    for name, port, expected in zip(names, source.outputs, all_of_them(x), strict=True):
        assert np.shape(got[port.artifact]) == tuple(expected.shape), name
        np.testing.assert_allclose(got[port.artifact], expected, rtol=1e-4, atol=1e-5, err_msg=name)
