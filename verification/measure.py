"""Latency and memory of one inference on this host."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

WARM_UP = 3
MAX_RUNS = 200
MAX_SECONDS = 1.0


def latency_ms(call: Callable[[], object]) -> dict[str, float]:
    """p50 and p90 in milliseconds over up to 200 calls or one second, after three calls to warm up."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    end = time.perf_counter() + MAX_SECONDS
    while len(times) < MAX_RUNS and (time.perf_counter() < end or len(times) < 5):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    return {"p50": statistics.median(times), "p90": times[min(len(times) - 1, int(0.9 * len(times)))]}


def _status_bytes(key: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


class PeakMemory:
    """Growth of this process's resident memory: its peak from `start` on, less what it held then.

    Reads VmHWM of /proc/self/status after resetting it through /proc/self/clear_refs (Linux, proc(5));
    None elsewhere.
    """

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._start = None
        else:
            self._start = _status_bytes("VmRSS")

    def grown(self) -> int | None:
        """Bytes by which the peak lies above the start, or None where it cannot be known."""
        peak = _status_bytes("VmHWM")
        if peak is None or self._start is None:
            return None
        return max(0, peak - self._start)
