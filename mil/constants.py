"""Types and constant values of a program, read from the protobuf messages ValueType and Value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..sources.files.protobuf import Message
from ..targets.errors import SourceUnreadable
from .blobs import BITS, NUMPY, Blobs, decode, packed_bytes
from .program import Constant, ValueType

if TYPE_CHECKING:
    import numpy as np

DTYPES = {
    1: "bool", 2: "string", 10: "fp16", 11: "fp32", 12: "fp64", 13: "bf16", 21: "int8", 22: "int16", 23: "int32",
    24: "int64", 25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2",
    37: "uint1", 38: "uint6", 39: "uint3", 40: "fp8e4m3fn", 41: "fp8e5m2",
}  # fmt: skip
"""MIL.proto's enum DataType."""

_FLOATS, _INTS, _BOOLS, _STRINGS, _LONGS, _DOUBLES, _BYTES = 1, 2, 3, 4, 5, 6, 7
"""Fields of TensorValue; each holds a message whose field 1 is the values."""

MAX_RANK = 8


def read_type(message: Message) -> ValueType:
    """A ValueType: its field says whether it is a tensor (1), list (2), tuple (3), dictionary (4) or state (5)."""
    if (tensor := message.message(1, "tensorType")) is not None:
        return _tensor_type(tensor)
    if (state := message.message(5, "stateType")) is not None:
        wrapped = state.message(1, "wrappedType")
        if wrapped is None or (inner := wrapped.message(1, "tensorType")) is None:
            raise message.error("a state of something else than a tensor")
        of = _tensor_type(inner)
        return ValueType(of.dtype, of.shape, "state")
    if (entries := message.message(2, "listType")) is not None:
        element = entries.message(1, "type")
        dtype = read_type(element).dtype if element is not None else ""
        return ValueType(dtype, (None,), "list")
    return ValueType("", (), "other")


def _tensor_type(message: Message) -> ValueType:
    number = message.integer(1)
    if number not in DTYPES:
        raise message.error(f"dtype number {number} is not known", 1)
    sizes: list[int | None] = []
    variadic = False
    for dimension in message.messages(3, "dimensions"):
        constant, unknown = dimension.message(1, "constant"), dimension.message(2, "unknown")
        sizes.append(None if constant is None else constant.integer(1))
        variadic |= unknown is not None and bool(unknown.integer(1))
    if len(sizes) > MAX_RANK or any(size is not None and size < 0 for size in sizes):
        raise message.error(f"a tensor of shape {sizes[:16]}", 3)
    return ValueType(DTYPES[number], tuple(sizes), variadic=variadic)


def read_value(message: Message, blobs: Blobs) -> Constant:
    """A Value: immediate (field 3, read at once) or in the weight file (field 5, checked at once, read when used)."""
    declared = message.message(2, "type")
    if declared is None:
        raise message.error("a value without a type", 2)
    kind = read_type(declared)
    if (stored := message.message(5, "blobFileValue")) is not None:
        shape = _static(kind, message)
        if kind.dtype not in BITS:
            raise message.error(f"a value of {kind.dtype} in the weight file", 5)
        size, load = blobs.constant(stored.text(1), stored.integer(2), kind.dtype, shape, message.where)
        return Constant(kind, load, size)
    immediate = message.message(3, "immediateValue")
    if immediate is None:
        raise message.error("a value that is neither here nor in the weight file")
    value = _immediate(immediate, kind, blobs)
    return Constant(kind, lambda: value, immediate.nbytes)


def _immediate(
    message: Message, kind: ValueType, blobs: Blobs
) -> np.ndarray[Any, Any] | str | tuple[Any, ...]:
    if (tensor := message.message(1, "tensor")) is not None:
        return _tensor(tensor, kind)
    for number, name in ((2, "tuple"), (3, "list")):
        if (several := message.message(number, name)) is not None:
            return tuple(read_value(item, blobs).load() for item in several.messages(1, "values"))
    raise message.error("an immediate value of a kind that is not read")


def _tensor(message: Message, kind: ValueType) -> np.ndarray[Any, Any] | str | tuple[Any, ...]:
    """A TensorValue as an array; a string scalar as `str`, a vector of strings as a tuple."""
    import numpy as np

    shape = _static(kind, message)
    count = math.prod(shape)
    if kind.dtype == "string":
        texts = _inner(message, _STRINGS, "strings")
        found = texts.texts(1) if texts is not None else []
        _same(message, len(found), count)
        return found[0] if shape == () else tuple(found)
    if (raw := _inner(message, _BYTES, "bytes")) is not None:
        spans = raw.spans(1)
        data = raw.buffer[slice(*spans[-1])] if spans else b""
        _same(message, len(data), packed_bytes(count, kind.dtype))
        return decode(data, kind.dtype, shape, message.where).copy()
    for number, name, width in ((_FLOATS, "floats", 4), (_DOUBLES, "doubles", 8)):
        if (numbers := _inner(message, number, name)) is not None:
            _same(message, numbers.count(1, width), count)
            data = b"".join(bytes(numbers.buffer[first:last]) for first, last in numbers.spans(1))
            return np.frombuffer(data, f"<f{width}").astype(NUMPY.get(kind.dtype, "<f4")).reshape(shape)
    for number, name in ((_INTS, "ints"), (_BOOLS, "bools"), (_LONGS, "longInts")):
        if (numbers := _inner(message, number, name)) is not None:
            _same(message, numbers.count(1), count)
            return np.array(numbers.integers(1), np.int64).astype(NUMPY.get(kind.dtype, "<i4")).reshape(shape)
    _same(message, 0, count)
    return np.zeros(shape, NUMPY.get(kind.dtype, "<f4"))


def _inner(message: Message, number: int, name: str) -> Message | None:
    return message.message(number, name) if number in message else None


def _static(kind: ValueType, message: Message) -> tuple[int, ...]:
    if kind.kind not in ("tensor", "list") or (kind.kind == "tensor" and None in kind.shape):
        raise message.error("a constant whose shape is not known")
    return tuple(size for size in kind.shape if size is not None)


def _same(message: Message, found: int, expected: int) -> None:
    if found != expected:
        raise SourceUnreadable(
            f"{found} values or bytes where the type asks for {expected}", where=message.where
        )
