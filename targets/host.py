"""This machine as a device: what the operating system tells, and rates computed from the CPU's flags."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from .device import Device

BANDWIDTH_PER_THREAD = 22e9
"""Bytes per second that one thread of a present server or desktop core reads: an estimate."""

BOOST = 1.35
"""What a core runs at over its nominal clock, where only that is told (as in virtual machines): an estimate."""

NOTE = "rates computed from the CPU's instruction sets and clock; bandwidth assumed at 22 GB/s a thread"


def this_host(threads: int = 1) -> Device:
    """This machine, with the rates of `threads` threads (verification measures on one).

    Every figure but the memory is an estimate, so the predictions that rest on it are too.
    """
    cpu = _cpu_fields()
    allowed = cpu_count()
    threads = max(1, min(threads, allowed))
    flags = frozenset((cpu.get("flags") or cpu.get("Features") or "").split())
    hertz = _clock_hertz(cpu)
    per_cycle = operations_per_cycle(flags, cpu.get("vendor_id", ""), cpu.get("cpu family", ""))
    model = cpu.get("model name") or platform.processor() or platform.machine()
    return Device(
        name="this-host",
        title=f"this machine ({model}, {threads} of {allowed} thread{'s' if allowed > 1 else ''})",
        device_class="host",
        aliases=("host", "localhost"),
        memory_bytes=memory_bytes(),
        usable_fraction=0.9,
        bandwidth=BANDWIDTH_PER_THREAD * threads,
        peak={dtype: ops * hertz * threads for dtype, ops in per_cycle.items()} if hertz else {},
        launch_us=1.0,
        threads=threads,
        sources=("/proc/meminfo", "/proc/cpuinfo"),
        estimates=frozenset({"bandwidth", "peak", "launch_us"}),
        note=NOTE,
    )


def cpu_count() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def operations_per_cycle(flags: frozenset[str], vendor: str, family: str) -> dict[str, float]:
    """Dense operations per cycle of one core by dtype, 2 for a multiply-add.

    Two fused multiply-add units of the widest vector is what present cores have: 2 x 2 x lanes. AMD's
    families up to 25 (Zen 4) execute 512-bit instructions in two halves. `vpdpbusd` (VNNI) multiplies
    four int8 pairs per 32-bit lane; without it the chain of three AVX2 instructions does as many as float32
    does operations, doubled.
    """
    arm = "asimd" in flags
    if "avx512f" in flags:
        halved = vendor == "AuthenticAMD" and family.isdigit() and int(family) <= 25
        lanes, vnni = (8 if halved else 16), "avx512_vnni" in flags
    elif "avx2" in flags or "fma" in flags:
        lanes, vnni = 8, "avx_vnni" in flags
    elif arm:
        lanes, vnni = 4, "asimddp" in flags
    else:
        lanes, vnni = 4, False
    fused = 2.0 if arm or "fma" in flags or "avx512f" in flags else 1.0
    float32 = 2.0 * fused * lanes
    rates = {"float32": float32, "int8": float32 * (4 if vnni else 2)}
    if "avx512_fp16" in flags or "fphp" in flags:
        rates["float16"] = 2 * float32
    if "avx512_bf16" in flags or "bf16" in flags:
        rates["bfloat16"] = 2 * float32
    return rates


def memory_bytes() -> int | None:
    """RAM of this machine, or of the container (cgroup) where that is less; None when nothing tells."""
    found = [value for value in (_meminfo_total(), _cgroup_limit()) if value]
    return min(found) if found else None


def available_bytes() -> int | None:
    """Memory that a new process can have now without swapping (MemAvailable of proc(5)); None elsewhere."""
    found = [value for value in (_meminfo("MemAvailable"), _cgroup_limit()) if value]
    return min(found) if found else None


def _meminfo(key: str) -> int | None:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return None


def _meminfo_total() -> int | None:
    total = _meminfo("MemTotal")
    if total is not None:
        return total
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _cgroup_limit() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdigit():
            return int(text)
    return None


def _cpu_fields() -> dict[str, str]:
    """The fields of the first CPU in /proc/cpuinfo; empty where there is no such file."""
    first = _read("/proc/cpuinfo").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _clock_hertz(cpu: dict[str, str]) -> float | None:
    """The highest clock that the system tells, or the nominal one raised by `BOOST`, in Hz; None: unknown."""
    kilohertz = _read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").strip()
    if kilohertz.isdigit():
        return float(kilohertz) * 1e3
    try:
        return float(cpu["cpu MHz"]) * 1e6 * BOOST
    except (KeyError, ValueError):
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
