"""What the system tells about processes: who started whom, what they hold, and what the kernel killed."""

from __future__ import annotations

import contextlib
import os


def descendants(root: int) -> list[int]:
    """Process ids of everything that `root` started, directly or not; empty where there is no /proc."""
    parent_of: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                # "pid (name) state ppid ...", and the name may hold spaces and brackets.
                with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stream:
                    parent_of[int(name)] = int(stream.read().rpartition(b")")[2].split()[1])
    found, known = [root], {root}
    for pid in found:
        for child, parent in parent_of.items():
            if parent == pid and child not in known:
                known.add(child)
                found.append(child)
    return found[1:]


def private_bytes(pid: int) -> int:
    """Private and shared memory of a process in bytes, without pages of mapped files; 0 when it has ended."""
    total = 0
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", "rb") as stream:
        for line in stream:
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def kernel_kills() -> int:
    """How often the kernel's out-of-memory killer has struck since boot; 0 where that is not told."""
    with contextlib.suppress(OSError), open("/proc/vmstat", "rb") as stream:
        for line in stream:
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    return 0
