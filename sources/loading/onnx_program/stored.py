"""An ONNX file without its weights, which stay where they lie until they are asked for: each is in memory once."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...files.protobuf import FIXED32, FIXED64, LENGTH, VARINT, Message, open_message
from .dtypes import FLOAT4, NARROW

Array = np.ndarray[Any, Any]

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
"""Field numbers of ModelProto, GraphProto and TensorProto."""

SMALL = 1024
"""Tensors of fewer bytes, which sizes and axes are, are read with the graph."""

PACKED = frozenset({*NARROW, FLOAT4})
"""Types of which a byte holds several values."""


def read(path: Path) -> onnx.ModelProto:
    """The model in the file; large weights that lie in it are external data, of which the file itself is the place."""
    with open_message(path) as message:
        model = onnx.ModelProto.FromString(_copied(message, {GRAPH}))
        graph = message.message(GRAPH, "graph")
        if graph is not None:
            model.graph.ParseFromString(_copied(graph, {INITIALIZER}))
            model.graph.initializer.extend(
                _tensor(stored, path.name) for stored in graph.messages(INITIALIZER, "initializer")
            )
    return model


def _tensor(message: Message, file: str) -> TensorProto:
    spans = message.spans(RAW_DATA)
    if not spans or spans[-1][1] - spans[-1][0] < SMALL:
        return TensorProto.FromString(_copied(message, ()))
    tensor = TensorProto.FromString(_copied(message, {RAW_DATA}))
    start, end = spans[-1]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", str(start)), ("length", str(end - start))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _copied(message: Message, without: Container[int]) -> bytes:
    """The message with some of its fields left out."""
    parts = []
    for number, values in message.index.items():
        if number in without:
            continue
        for wire, first, last in values:
            parts.append(_varint(number << 3 | wire))
            if wire == LENGTH:
                parts += [_varint(last - first), bytes(message.buffer[first:last])]
            elif wire == VARINT:
                parts.append(_varint(first))
            else:
                parts.append(first.to_bytes({FIXED32: 4, FIXED64: 8}[wire], "little"))
    return b"".join(parts)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def array_of(tensor: TensorProto, folder: Path) -> Array:
    """A tensor's values; external data in `folder` is mapped where it is aligned, else read."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return np.asarray(numpy_helper.to_array(tensor))
    if tensor.data_type in PACKED or 0 in tensor.dims:
        return np.asarray(numpy_helper.to_array(tensor, str(folder)))
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file, place = folder / entries["location"], int(entries.get("offset", 0))
    if place % dtype.itemsize == 0:
        # Copy on write: nobody who changes a weight changes the file.
        return np.memmap(file, dtype, "c", place, tuple(tensor.dims))
    size = int(np.prod(tensor.dims, dtype=np.int64)) * dtype.itemsize
    read = np.fromfile(file, np.uint8, size, offset=place)
    return np.asarray(read.view(dtype).reshape(tuple(tensor.dims)))
