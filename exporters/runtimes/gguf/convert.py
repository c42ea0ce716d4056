"""One slab of rows from the checkpoint's dtype to a ggml type, by the road that llama.cpp's two steps take."""

from __future__ import annotations

import ctypes
import functools
import mmap
from typing import TYPE_CHECKING, Any

from ....targets.errors import ConversionFailed, SourceUnreadable, Unsupported
from . import library, rows

if TYPE_CHECKING:
    from .lanes import Quantizer, Report
    from .stream import Order

F32, F16, BF16 = 0, 1, 30
PLAIN = {F32: "float32", F16: "float16", BF16: "bfloat16"}
"""ggml's ids of the types that are no quantization, with the dtypes that they hold."""

UNPACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """struct ggml_type_traits, which libggml fills for each type."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


@functools.cache
def _ggml() -> ctypes.CDLL:
    """libggml with the two functions declared that only converting needs."""
    ggml = library.ggml()
    ggml.ggml_get_type_traits.restype = ctypes.c_void_p
    ggml.ggml_get_type_traits.argtypes = [ctypes.c_int]
    ggml.ggml_validate_row_data.restype = ctypes.c_bool
    ggml.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    return ggml


class Buffer:
    """Memory with an address, in pages of its own, so that it goes back to the system at once."""

    def __init__(self, size: int) -> None:
        self._pages = mmap.mmap(-1, max(size, 1))
        self.view = memoryview(self._pages)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))


class Converter:
    """What one thread converts slabs with: its own buffers, taken when first needed."""

    def __init__(self, quantizer: Quantizer, size: int) -> None:
        """`size`: bytes of the largest slab in any of its forms."""
        self.quantizer = quantizer
        self.size = size
        self.ggml = _ggml()
        self._buffers: dict[str, Buffer] = {}

    @staticmethod
    def unpacks(order: Order) -> bool:
        """Whether the tensor's rows are held in float32 on their way."""
        stored = {place.dtype for place in order.bound.places}
        blocks = stored - PLAIN.keys() - set(PLAIN.values())
        copied = {rows.type_id(dtype) for dtype in blocks} == {order.type}
        return (bool(blocks) and not copied) or order.bound.tensor.transform == "plus one"

    def convert(self, order: Order, slab: rows.Slab, buffer: Buffer) -> memoryview:
        """The slab's rows in the order's type. The bytes are valid until the next call or use of `buffer`.

        Raises SourceUnreadable for weights that are NaN or infinite, and ConversionFailed where the type
        that is written, or the 16-bit one before it, is too narrow for them.
        """
        bound = order.bound
        count = slab.rows * bound.width
        dtype, address = slab.dtype, buffer.address
        nbytes = slab.rows * rows.target_bytes(order.type, bound.width)
        assert max(nbytes, slab.nbytes) <= self.size, "C code writes here: a slab must fit its buffers"
        if dtype not in PLAIN.values():
            if rows.type_id(dtype) == order.type:
                self._validate(order, address, slab.nbytes)
                return buffer.view[: slab.nbytes]
            dtype, address = "float32", self._unpacked(dtype, buffer, count)
        if bound.tensor.transform == "plus one":
            dtype, address = "float32", self._plus_one(dtype, address, count)
        via = {F16: "f16", BF16: "bf16"}.get(order.between) if dtype != PLAIN.get(order.between) else None
        out = self._buffer("out")
        height, width = (1, count) if order.type in PLAIN else (slab.rows, bound.width)
        report = self.quantizer.quantize(
            order.type, dtype, address, out.address, height, width, self._importance(order, slab), via=via
        )
        self._judge(order, report)
        if order.type not in PLAIN:
            self._validate(order, out.address, nbytes)
        return out.view[:nbytes]

    def _buffer(self, name: str) -> Buffer:
        if name not in self._buffers:
            self._buffers[name] = Buffer(self.size)
        return self._buffers[name]

    def _importance(self, order: Order, slab: rows.Slab) -> int | None:
        if order.importance is None:
            return None
        matrix = slab.first // order.bound.matrix_rows if order.importance.size > order.bound.width else 0
        address: int = order.importance.ctypes.data
        return address + matrix * order.bound.width * 4

    def _unpacked(self, dtype: str, buffer: Buffer, count: int) -> int:
        """Address of the values as float32, unpacked by ggml (or rounded, from float64)."""
        target = self._buffer("float32")
        if dtype == "float64":
            import numpy as np

            np.frombuffer(target.view, np.float32, count)[:] = np.frombuffer(buffer.view, np.float64, count)
            return target.address
        traits = ctypes.cast(self.ggml.ggml_get_type_traits(rows.type_id(dtype)), ctypes.POINTER(_Traits))
        if not traits or not traits.contents.to_float:
            raise Unsupported(f"llama.cpp cannot unpack weights stored as {dtype}")
        UNPACK(traits.contents.to_float)(buffer.address, target.address, count)
        return target.address

    def _plus_one(self, dtype: str, address: int, count: int) -> int:
        """Address of the values plus one, in float32.

        The converter adds in the checkpoint's own type where that is float16, and in float32 otherwise.
        """
        import numpy as np

        target = self._buffer("float32")
        values: Any = np.frombuffer(target.view, np.float32, count)
        if dtype == "float16":
            raw = np.ctypeslib.as_array((ctypes.c_uint16 * count).from_address(address))
            values[:] = raw.view(np.float16) + np.float16(1)
            return target.address
        if dtype == "bfloat16":
            self.ggml.ggml_bf16_to_fp32_row(address, target.address, count)
        elif address != target.address:
            ctypes.memmove(target.address, address, 4 * count)
        values += np.float32(1)
        return target.address

    def _judge(self, order: Order, report: Report) -> None:
        name = order.bound.tensor.name
        if report.nonfinite:
            raise SourceUnreadable(
                f"{report.nonfinite:,} or more values are NaN or infinite",
                where=order.bound.where,
                mend="Start from undamaged weights",
            )
        if report.overflow:
            raise ConversionFailed(
                f"{report.overflow:,} or more values of {name} are beyond float16's 65,504",
                where=order.bound.where,
                mend="Leave out --via f16, and choose bf16, f32 or a quantized scheme",
            )

    def _validate(self, order: Order, address: int, nbytes: int) -> None:
        if not self.ggml.ggml_validate_row_data(order.type, address, nbytes):
            raise ConversionFailed(
                f"the scale of a block of {order.bound.tensor.name} is beyond float16: its weights are too large",
                where=order.bound.where,
                mend="Choose bf16 or f32, or check the model: usual weights are below 100",
            )
