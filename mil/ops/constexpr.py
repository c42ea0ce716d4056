"""Compressed constants: what the compressed forms of iOS16 and iOS18 hold, as dense values."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch

from ...targets.errors import SourceUnreadable
from ..program import Operation
from ..values import Inputs, OpFunction, Tensor, bounded
from .checks import axis_of, blocks_of
from .quantization import along


def affine_dequantize(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """scale * (quantized_data - zero_point), both of them one value or one a place on `axis` (iOS16)."""
    data = x["quantized_data"]
    axis = axis_of(x.integer("axis"), data.dim(), op)
    scale, zero_point = (along(x[name], data, axis, op) for name in ("scale", "zero_point"))
    return ((data.float() - zero_point) * scale,)


def blockwise_shift_scale(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """scale * (data - offset), one scale and offset a block (iOS18)."""
    return (_shift_scale(op, x["data"], x["scale"], x.optional("offset")),)


def cast(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """float16 stored, float32 used: both are carried as float32."""
    return (x["source_val"].float(),)


def lut_to_dense(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Each index replaced by its entry of the palette.

    iOS16: one palette `lut` [N], and indices packed into bytes from the lowest bit on, for `shape`.
    iOS18: `lut` [blocks..., N, V] with a palette a block and entries of V values, laid out along `vector_axis`.
    """
    if "shape" not in x:
        return (_lookup(op, x["indices"], x["lut"], x.optional("vector_axis")),)
    lut, shape = x["lut"], bounded(x.integers("shape"), op.name)
    bits = lut.numel().bit_length() - 1
    if lut.numel() not in (2, 4, 16, 64, 256):
        raise SourceUnreadable(f"a palette of {lut.numel()} entries", where=op.name)
    indices = unpack(x["indices"], bits, int(np.prod(shape, dtype=np.int64)), op)
    return (lut.reshape(-1).index_select(0, indices.int()).reshape(shape),)


def sparse_to_dense(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """`nonzero_data` where `mask` is set, zero elsewhere; iOS16 packs the mask into bytes and gives `shape`."""
    mask = x["mask"]
    if "shape" in x:
        shape = bounded(x.integers("shape"), op.name)
        mask = unpack(mask, 1, int(np.prod(shape, dtype=np.int64)), op).reshape(shape)
    return (_spread(op, x["nonzero_data"], mask),)


def lut_to_sparse(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """Sparse indices into a palette: the mask of the values, and the values that are not zero (iOS18)."""
    mask, lut, axis = x["indices_mask"], x["lut"], x.optional("vector_axis")
    dense = _lookup(op, _spread(op, x["indices_nonzero_data"], mask), lut, axis)
    if lut.shape[-1] > 1:
        mask = mask.repeat_interleave(lut.shape[-1], dim=axis_of(int(axis), mask.dim(), op))
    return mask, dense[mask != 0]


def sparse_blockwise_shift_scale(op: Operation, x: Inputs) -> tuple[Tensor, ...]:
    """scale * (data - offset) of sparse data: its mask, and the values that are not zero (iOS18)."""
    mask = x["data_mask"]
    dense = _shift_scale(op, _spread(op, x["nonzero_data"], mask), x["scale"], x.optional("offset"))
    return mask, dense[mask != 0]


def unpack(packed: Tensor, bits: int, count: int, op: Operation) -> Tensor:
    """`count` unsigned integers of `bits` bits each, packed from the lowest bit of the first byte on."""
    if packed.numel() != -(-bits * count // 8):
        raise SourceUnreadable(f"{packed.numel()} bytes for {count} values of {bits} bits", where=op.name)
    stored = np.unpackbits(packed.reshape(-1).numpy().view(np.uint8), bitorder="little")[: bits * count]
    return torch.from_numpy(np.packbits(stored.reshape(count, bits), axis=1, bitorder="little").reshape(-1))


def _spread(op: Operation, values: Tensor, mask: Tensor) -> Tensor:
    """`values` in the order of the set places of `mask`, zeros at the others."""
    places = mask != 0
    if int(places.sum()) != values.numel():
        raise SourceUnreadable(f"{values.numel()} values for a mask of {int(places.sum())}", where=op.name)
    dense = values.new_zeros(mask.shape)
    dense[places] = values.reshape(-1)
    return dense


def _shift_scale(op: Operation, data: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    """scale * (data - offset): each axis is split into (blocks, places of a block) to broadcast without copies."""
    if scale.dim() != data.dim() or (offset is not None and offset.shape != scale.shape):
        raise SourceUnreadable(f"scales of shape {list(scale.shape)} for {list(data.shape)}", where=op.name)
    sizes = blocks_of(data.shape, scale.shape, op)
    split = tuple(chain.from_iterable(zip(scale.shape, sizes, strict=True)))
    single = tuple(chain.from_iterable((count, 1) for count in scale.shape))
    result = data.float().reshape(split)
    if offset is not None:
        result = result - offset.float().reshape(single)
    return (result * scale.reshape(single)).reshape(data.shape)


def _lookup(op: Operation, indices: Tensor, lut: Tensor, vector_axis: Tensor | None) -> Tensor:
    """The entries of `lut` [blocks..., N, V] at `indices`, each block of indices from its own palette."""
    if lut.dim() != indices.dim() + 2:
        raise SourceUnreadable(
            f"a palette of shape {list(lut.shape)} for {list(indices.shape)}", where=op.name
        )
    *blocks, entries, width = lut.shape
    if indices.numel() and int(indices.max()) >= entries:
        raise SourceUnreadable(f"the index {int(indices.max())} into {entries} entries", where=op.name)
    sizes = blocks_of(indices.shape, blocks, op)
    bounded((*indices.shape, width), op.name)
    rows, stride = indices.int(), entries
    for axis in range(indices.dim() - 1, -1, -1):
        if blocks[axis] > 1:
            block = torch.arange(indices.shape[axis], dtype=torch.int32) // sizes[axis] * stride
            rows = rows + block.reshape(-1, *[1] * (indices.dim() - axis - 1))
        stride *= blocks[axis]
    values = lut.reshape(-1, width).index_select(0, rows.reshape(-1)).reshape(*indices.shape, width)
    if width == 1:
        return values.squeeze(-1)
    if vector_axis is None:
        raise SourceUnreadable("entries of several values, and no vector_axis", where=op.name)
    axis = axis_of(int(vector_axis), indices.dim(), op)
    return values.movedim(-1, axis + 1).flatten(axis, axis + 1)


OPS: dict[str, OpFunction] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": sparse_to_dense,
}
