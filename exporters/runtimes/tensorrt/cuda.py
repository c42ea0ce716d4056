"""The GPU by the CUDA driver's own library: memory, one stream, and what the device is. No further package."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ....targets.errors import ConversionFailed

if TYPE_CHECKING:
    import numpy as np

LIBRARY = "libcuda.so.1"
MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""


@dataclass(frozen=True)
class Device:
    """The first GPU that this process may use."""

    name: str
    compute_capability: str
    """As in "8.9"."""
    driver: str | None
    """The driver's version, as in "580.65.06"; None where the kernel module does not tell."""
    cuda: str
    """The newest CUDA that the driver supports, as in "13.0"."""
    memory_bytes: int


class Gpu(Protocol):
    """Device memory and a stream. Every method raises ConversionFailed with the driver's error."""

    stream: int

    def allocate(self, size: int) -> int:
        """The address of `size` bytes."""

    def free(self, address: int) -> None:
        """Give memory back."""

    def upload(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Copy a C-ordered array to the device."""

    def download(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Fill an array from the device."""

    def wait(self) -> None:
        """Until the stream has done all."""


def find() -> Device | str:
    """The first GPU, or why there is none."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    code = library.cuInit(0)
    count = ctypes.c_int()
    if code or library.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver finds no GPU (cuInit gives {code})"
    if not count.value:
        return "the NVIDIA driver finds no GPU"
    device, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    if library.cuDeviceGet(ctypes.byref(device), 0):
        return "the first GPU cannot be used"
    library.cuDeviceGetName(name, len(name), device)
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    major, minor = (_attribute(library, attribute, device) for attribute in (MAJOR, MINOR))
    return Device(
        name.value.decode(errors="replace"),
        f"{major}.{minor}",
        _driver(),
        f"{version.value // 1000}.{version.value % 1000 // 10}",
        memory.value,
    )


def _attribute(library: Any, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value


def _driver() -> str | None:
    """The driver's version, as its management library tells it."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    text = ctypes.create_string_buffer(80)
    if library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(text, len(text)):
        return None
    library.nvmlShutdown()
    return text.value.decode(errors="replace")


class Driver:
    """The first GPU through libcuda; it shares TensorRT's context, the device's primary one."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)

    def allocate(self, size: int) -> int:
        """Device memory; at least one byte, since the driver gives none for nothing."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give it back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Host to device."""
        size = ctypes.c_size_t(array.nbytes)
        if array.nbytes:
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), size)

    def download(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Device to host."""
        size = ctypes.c_size_t(array.nbytes)
        if array.nbytes:
            self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), size)

    def wait(self) -> None:
        """Synchronize the stream."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise ConversionFailed(f"{name}: {(text.value or b'error').decode()} ({code})", where="GPU")


def label(device: Device, tensorrt: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an engine is bound to: the manifest's `portability`."""
    return {
        "tensorrt": tensorrt,
        "gpu": device.name,
        "compute_capability": device.compute_capability,
        "driver": device.driver,
        "cuda": device.cuda,
        **settings,
    }
