"""How many bytes a second this host reads from memory: what the speed of writing text is predicted from."""

from __future__ import annotations

import ctypes
import statistics
import threading
import time
from pathlib import Path

from ..targets import host

LEAST = 256 << 20
"""Bytes of the buffer, where the caches are not larger."""
PASSES = 5


def read_bytes_per_second(threads: int, size: int | None = None) -> float | None:
    """The median of several passes over a buffer that no cache holds, each thread reading its own part.

    memchr of the C library, looking for a byte that is not there, reads as fast as memory gives. None where
    that library is not to be had, or memory is too short for the buffer.
    """
    size = size or max(LEAST, 4 * largest_cache())
    available = host.available_bytes()
    if available is not None and size > available // 4:
        return None
    try:
        search = ctypes.CDLL(None).memchr
    except (OSError, TypeError, AttributeError):
        return None
    search.restype, search.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    buffer = (ctypes.c_char * size)()
    # Pages that were never written are all one page of zeros, which the cache does hold.
    ctypes.memset(buffer, 1, size)
    begin, part = ctypes.addressof(buffer), size // threads
    times: list[float] = []
    for _ in range(PASSES):
        readers = [
            threading.Thread(target=search, args=(begin + index * part, 0, part)) for index in range(threads)
        ]
        start = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        times.append(time.perf_counter() - start)
    return part * threads / statistics.median(times)


def largest_cache() -> int:
    """Bytes of the largest cache of the first CPU, by sysfs; 0 where nothing tells."""
    largest = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
            largest = max(largest, int(text.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return largest
