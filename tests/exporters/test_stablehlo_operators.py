"""Every operator of the StableHLO exporter beside torch's own, over random shapes and attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stablehlo_jobs import close

pytestmark = pytest.mark.slow
pytest.importorskip("jax")

FEW = settings(max_examples=4, deadline=None, derandomize=True)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=4)
FILLED = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
SEEDS = st.integers(0, 2**31 - 1)


def random(seed: int, *shape: int, low: float = -3, high: float = 3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.uniform(low, high, shape).astype(np.float32))


def whole(seed: int, *shape: int, low: int = -5, high: int = 6) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).integers(low, high, shape).astype(np.int32))


DOMAIN = {
    "acos": (-0.9, 0.9), "asin": (-0.9, 0.9), "atanh": (-0.9, 0.9), "erfinv": (-0.9, 0.9), "acosh": (1.1, 4),
    "log": (0.1, 4), "log2": (0.1, 4), "log10": (0.1, 4), "log1p": (-0.5, 4), "sqrt": (0, 4), "rsqrt": (0.1, 4),
    "reciprocal": (0.2, 4), "tan": (-1.2, 1.2),
}  # fmt: skip
UNARY = """
    abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc erfinv exp exp2 expm1 floor log log10 log1p log2 neg
    reciprocal relu round rsqrt sigmoid sign silu sin sinh sqrt tan tanh trunc isinf isnan logical_not hardtanh
    leaky_relu gelu elu
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", UNARY)
@FEW
@given(shape=SHAPES, seed=SEEDS)
def test_unary(name: str, shape: tuple[int, ...], seed: int) -> None:
    low, high = DOMAIN.get(name, (-3, 3))
    close(f"aten.{name}.default", random(seed, *shape, low=low, high=high))


def test_activations_take_their_options() -> None:
    x = random(1, 3, 5)
    close("aten.gelu.default", x, approximate="tanh")
    close("aten.elu.default", x, 0.7, 1.3, 0.9)
    close("aten.hardtanh.default", x, -0.5, 2.0)
    close("aten.leaky_relu.default", x, 0.3)
    close("aten.round.decimals", x, decimals=2)


BINARY = ["add", "sub", "mul", "div", "fmod", "remainder", "eq", "ne", "lt", "le", "gt", "ge"]


@pytest.mark.parametrize("name", BINARY)
@FEW
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4), seed=SEEDS)
def test_binary(name: str, shapes: Any, seed: int) -> None:
    left, right = shapes.input_shapes
    x, y = random(seed, *left), random(seed + 1, *right)
    assume(bool((y.abs() > 0.05).all()))
    close(f"aten.{name}.Tensor", x, y)
    close(f"aten.{name}.Tensor", whole(seed, *left), whole(seed + 2, *right, low=1))
    close(f"aten.{name}.Scalar", x, 1.5)


@pytest.mark.parametrize("mode", ["floor", "trunc", None])
@FEW
@given(shape=FILLED, seed=SEEDS)
def test_division_rounds_as_asked(mode: str, shape: tuple[int, ...], seed: int) -> None:
    close("aten.div.Tensor_mode", whole(seed, *shape), whole(seed + 1, *shape, low=1), rounding_mode=mode)
    close("aten.div.Tensor_mode", random(seed, *shape), random(seed + 1, *shape, low=0.5), rounding_mode=mode)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 2.0, 0.5, -1, -0.5, 1.7])
def test_powers(exponent: float) -> None:
    close("aten.pow.Tensor_Scalar", random(3, 4, 5, low=0.2), exponent)
    close("aten.pow.Tensor_Tensor", random(3, 4, 5, low=0.2), random(4, 5))
    close("aten.pow.Scalar", 2.0, random(3, 4))


@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_bits(name: str) -> None:
    close(f"aten.{name}.Tensor", whole(1, 3, 4), whole(2, 4))
    close(f"aten.{name}.Tensor", whole(1, 3, 4) > 0, whole(2, 4) > 0)
    close(f"aten.{name}.Scalar", whole(1, 3, 4), 6)


def test_selection_and_logic() -> None:
    x, y = random(1, 3, 4), random(2, 4)
    close("aten.where.self", x > 0, x, y)
    close("aten.clamp.default", x, -1.0, 0.5)
    close("aten.clamp.default", x, 0.5, -1.0)
    close("aten.clamp.Tensor", x, y, None)
    close("aten.maximum.default", x, y)
    close("aten.minimum.default", x, y)
    close("aten.atan2.default", x, y)
    close("aten.copysign.Tensor", x, y)
    for name in ("logical_and", "logical_or", "logical_xor"):
        close(f"aten.{name}.default", x > 0, y > 0)
    close("aten.rsub.Scalar", x, 2.0, 3)
    close("aten.add.Tensor", x, y, alpha=0.3)
    close("aten.sub.Tensor", whole(1, 3), whole(2, 3), alpha=2)
    close("aten.add.Tensor", torch.tensor([True, False]), torch.tensor([True, True]))


REDUCTIONS: dict[str, Callable[..., None]] = {
    "sum": lambda x, dims, keep: close("aten.sum.dim_IntList", x, dims, keep),
    "mean": lambda x, dims, keep: close("aten.mean.dim", x, dims, keep),
    "amax": lambda x, dims, keep: close("aten.amax.default", x, dims, keep),
    "amin": lambda x, dims, keep: close("aten.amin.default", x, dims, keep),
    "var": lambda x, dims, keep: close("aten.var.correction", x, dims, correction=0, keepdim=keep),
    "any": lambda x, dims, keep: close("aten.any.dims", x > 1, dims or None, keep),
    "norm": lambda x, dims, keep: close("aten.linalg_vector_norm.default", x, 2, dims or None, keep),
    "norm1": lambda x, dims, keep: close("aten.linalg_vector_norm.default", x, 1, dims or None, keep),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(shape=FILLED, seed=SEEDS, keep=st.booleans(), data=st.data())
def test_reductions(name: str, shape: tuple[int, ...], seed: int, keep: bool, data: Any) -> None:
    rank = len(shape)
    dims = data.draw(st.lists(st.integers(0, rank - 1), unique=True).map(sorted))
    REDUCTIONS[name](random(seed, *shape), [d - rank if seed % 2 else d for d in dims], keep)


def test_reductions_along_one_axis() -> None:
    x = random(5, 3, 4, 2)
    for dim in (0, 1, -1):
        for keep in (False, True):
            close("aten.max.dim", x, dim, keep)
            close("aten.min.dim", x, dim, keep)
            close("aten.argmax.default", x, dim, keep)
            close("aten.prod.dim_int", x, dim, keep)
            close("aten.var.dim", x, [dim], True, keep)
        close("aten.cumsum.default", x, dim)
        close("aten.cumprod.default", x, dim)
        close("aten.cummax.default", x, dim)
    close("aten.argmax.default", x)
    close("aten.argmin.default", x)
    close("aten.sum.dim_IntList", x > 0, [1])
    close("aten.var.correction", x, None)
    close("aten.mean.default", x)
    close("aten.prod.default", x)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(shape=FILLED, seed=SEEDS, data=st.data())
def test_slices(shape: tuple[int, ...], seed: int, data: Any) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    start, end = (data.draw(st.one_of(st.none(), st.integers(-6, 6))) for _ in range(2))
    x = random(seed, *shape)
    close("aten.slice.Tensor", x, dim, start, end, data.draw(st.integers(1, 3)))
    close("aten.slice.Tensor", x, dim, start, 2**63 - 1)
    size = shape[dim]
    close("aten.select.int", x, dim, data.draw(st.integers(-size, size - 1)))
    close("aten.flip.default", x, [dim])
    close("aten.unsqueeze.default", x, dim)
    close("aten.squeeze.dims", x, [dim])


def test_views() -> None:
    x = random(1, 2, 3, 4)
    close("aten.view.default", x, [6, -1])
    close("aten.permute.default", x, [2, 0, 1])
    close("aten.permute.default", x, [-1, 0, 1])
    close("aten.expand.default", random(2, 1, 4), [5, 3, -1, 4])
    close("aten.repeat.default", x, [2, 1, 2, 3])
    close("aten.repeat.default", random(1, 3), [2, 2])
    close("aten.cat.default", [x, x * 2], -1)
    close("aten.cat.default", [torch.zeros(0), random(1, 2)], 0)
    close("aten.stack.default", [x, x], 1)
    close("aten.split_with_sizes.default", x, [1, 3], 2)
    close("aten.split.Tensor", x, 3, -1)
    close("aten.unbind.int", x, 1)
    close("aten.diagonal.default", x, 1, 1, 2)
    close("aten.roll.default", x, [1, 2], [0, -1])
    close("aten.tril.default", x, 1)
    close("aten.triu.default", x, -1)
    close("aten.slice_scatter.default", x, random(3, 2, 2, 4), 1, 1, 3)
    close("aten.select_scatter.default", x, random(3, 2, 4), 1, -1)


def test_padding() -> None:
    x = random(1, 2, 3, 5, 6)
    close("aten.constant_pad_nd.default", x, [1, 2, -1, 1], 7.0)
    close("aten.constant_pad_nd.default", whole(1, 3), [1, 1], 2)
    close("aten.reflection_pad2d.default", x, [2, 1, 0, 3])
    close("aten.replication_pad2d.default", x, [2, 1, 0, 3])
    close("aten.reflection_pad1d.default", x[0], [2, 3])


def test_looking_up() -> None:
    x = random(1, 4, 5, 3)
    ids = torch.tensor([[0, 3, 1], [2, 2, 0]])
    close("aten.embedding.default", random(2, 7, 4), ids)
    close("aten.index.Tensor", x, [ids])
    close("aten.index.Tensor", x, [None, ids])
    close("aten.index.Tensor", x, [ids, None, torch.tensor([0, -1, 2])])
    close("aten.index_select.default", x, 1, torch.tensor([4, 0, 0]))
    for dim in (0, 1, -1):
        places = whole(dim + 9, 3, 4, 2, low=0, high=3).long()
        close("aten.gather.default", x, dim, places)
        close("aten.scatter.value", x, dim, places, 9.0)
    close("aten.scatter_add.default", x, 0, whole(3, 3, 4, 2, low=0, high=4).long(), random(4, 3, 5, 3))
    close("aten.scatter.src", x, 1, torch.tensor([[[1, 0]], [[2, 3]]]), random(4, 3, 5, 3))
    close("aten.scatter_reduce.two", x, 0, whole(3, 3, 4, 2, low=0, high=4).long(), x[:3], "amax")
    close("aten.index_put.default", x, [torch.tensor([1, 0])], random(5, 2, 5, 3))
    close("aten.index_put.default", x, [torch.tensor([1, 1])], random(5, 2, 5, 3), True)
    close("aten.index_put.default", x, [x > 0], torch.tensor(-8.0))
    close("aten.unfold.default", x, 1, 3, 2)
    close("aten.unfold.default", x, -1, 2, 1)
    close("aten.kthvalue.default", x, 2, 0)
    close("aten.median.dim", x, 1, True)
    close("aten.median.dim", x, 0)
    close("aten.searchsorted.Tensor", torch.tensor([-1.0, 0.0, 2.0]), random(6, 9))
    close("aten.bucketize.Tensor", random(6, 9), torch.tensor([-1.0, 0.0, 2.0]), right=True)


@FEW
@given(seed=SEEDS, dim=st.integers(-3, 2), descending=st.booleans())
def test_order(seed: int, dim: int, descending: bool) -> None:
    x = random(seed, 3, 4, 5)
    close("aten.sort.default", x, dim, descending)
    close("aten.topk.default", x, 3, dim, descending)
    close("aten.sort.stable", whole(seed, 3, 4, 5), stable=True, dim=dim, descending=descending)


def test_creation() -> None:
    close("aten.arange.start_step", 2, 9, 3)
    close("aten.arange.start_step", 1.0, 2.0, 0.25)
    close("aten.full.default", [2, 3], 1.5)
    close("aten.full_like.default", random(1, 2), 3)


def test_products() -> None:
    x, w = random(1, 2, 3, 4), random(2, 5, 4)
    close("aten.linear.default", x, w, random(3, 5))
    close("aten.linear.default", x[0, 0], w)
    close("aten.matmul.default", x, random(4, 4, 6))
    close("aten.matmul.default", random(4, 4), random(5, 4))
    close("aten.bmm.default", x, random(4, 2, 4, 6))
    close("aten.addmm.default", random(5, 6), x[0], random(6, 4, 6), beta=0.5, alpha=2)
    close("aten.baddbmm.default", random(5, 2, 3, 6), x, random(6, 2, 4, 6))
    close("aten.mv.default", w, random(7, 4))
    close("aten._cdist_forward.default", x, random(8, 2, 6, 4), 2.0, None)
    close("aten._cdist_forward.default", x, random(8, 2, 6, 4), 1.0, None)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=SEEDS, data=st.data(), transposed=st.booleans(), rank=st.integers(1, 3))
def test_convolutions(seed: int, data: Any, transposed: bool, rank: int) -> None:
    def each(low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    groups = data.draw(st.integers(1, 2))
    kernel, stride, padding, dilation = each(1, 3), each(1, 3), each(0, 1), each(1, 2)
    extra = [min(e, s - 1) for e, s in zip(each(0, 1), stride, strict=True)] if transposed else [0] * rank
    inner, outer = 2 * groups, 3 * groups
    shape = (inner, outer // groups, *kernel) if transposed else (outer, inner // groups, *kernel)
    arguments = (stride, padding, dilation, transposed, extra, groups)
    x = random(seed, 2, inner, *each(5, 7))
    close("aten.convolution.default", x, random(seed + 1, *shape), random(seed + 2, outer), *arguments)


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal: bool) -> None:
    q, k, v = (random(n, 2, 3, 5, 4) for n in (1, 2, 3))
    close("aten.scaled_dot_product_attention.default", q, k, v, None, 0.0, causal)
    if not causal:
        seen = torch.ones(5, 5, dtype=torch.bool)
        seen[2] = False
        close("aten.scaled_dot_product_attention.default", q, k, v, seen, scale=0.3)
        close("aten.scaled_dot_product_attention.default", q, k, v, random(4, 5, 5))
        close("aten.scaled_dot_product_attention.default", q, k[:, :1], v[:, :1], enable_gqa=True)


def test_norms() -> None:
    x, w, b = random(1, 2, 6, 4, 5), random(2, 6), random(3, 6)
    close("aten.layer_norm.default", x, [4, 5], random(4, 4, 5), random(5, 4, 5), 1e-5)
    close("aten.native_layer_norm.default", x, [5], None, None, 1e-3)
    close("aten.native_group_norm.default", x, w, b, 2, 6, 20, 3, 1e-5)
    var = random(5, 6, low=0.1)
    close("aten._native_batch_norm_legit_no_training.default", x, w, b, random(4, 6), var, 0.1, 1e-3)
    close("aten._native_batch_norm_legit.no_stats", x, w, b, True, 0.1, 1e-5)
    for dim in (0, 1, -1):
        close("aten.softmax.int", x, dim)
        close("aten._softmax.default", x, dim, False)
        close("aten.log_softmax.int", x, dim)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=SEEDS, data=st.data(), ceil=st.booleans(), include=st.booleans())
def test_pooling(seed: int, data: Any, ceil: bool, include: bool) -> None:
    kernel = data.draw(st.lists(st.integers(2, 3), min_size=2, max_size=2))
    stride = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=2))
    pad = data.draw(st.lists(st.integers(0, 1), min_size=2, max_size=2))
    x = random(seed, 2, 3, data.draw(st.integers(5, 8)), data.draw(st.integers(5, 8)))
    close("aten.avg_pool2d.default", x, kernel, stride, pad, ceil, include)
    close("aten.avg_pool2d.default", x, kernel, stride, pad, ceil, include, 5)
    pooled = torch.nn.functional.max_pool2d(x, kernel, stride, pad, 1, ceil)
    from modelport.exporters.runtimes.stablehlo.operators import OPERATORS

    (ours,) = OPERATORS["aten.max_pool2d_with_indices.default"](x.numpy(), kernel, stride, pad, [1, 1], ceil)
    np.testing.assert_array_equal(np.asarray(ours), pooled.numpy())


@pytest.mark.parametrize("size", [[1, 1], [2, 3], [3, 5], [7, 6]])
def test_adaptive_pooling(size: list[int]) -> None:
    x = random(1, 2, 3, 7, 6)
    close("aten._adaptive_avg_pool2d.default", x, size)
    close("aten.adaptive_max_pool2d.default", x, size)
    close("aten.adaptive_avg_pool1d.default", x[0], size[:1])


@pytest.mark.parametrize("sizes", [(4, 9), (10, 3), (5, 6)])
@pytest.mark.parametrize("align", [False, True])
def test_resizing(sizes: tuple[int, int], align: bool) -> None:
    x = random(1, 2, 3, 5, 6)
    close("aten.upsample_bilinear2d.vec", x, list(sizes), align, None)
    close("aten.upsample_nearest2d.vec", x, list(sizes), None)
    close("aten.upsample_bilinear2d.vec", x, None, align, [1.7, 2.0])
    close("aten.upsample_nearest2d.vec", x, None, [2.0, 1.5])


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("align", [False, True])
def test_sampling_at_a_grid(mode: int, padding: int, align: bool) -> None:
    grid = random(2, 2, 3, 4, 2, low=-1.3, high=1.3)
    close("aten.grid_sampler_2d.default", random(1, 2, 3, 5, 6), grid, mode, padding, align, tolerance=1e-4)
