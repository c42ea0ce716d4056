"""The small process between the parent and the worker: when either ends, it ends whatever is left.

A worker that dies by kill -9 can clean up nothing, and a parent that dies so cannot either. The guardian
holds no work and no framework, so it outlives the one and notices the end of the other: it is the kernel's
"child subreaper" for everything that the worker starts, gets SIGTERM when the parent dies, and reports how
the worker ended. Without Linux's prctl (macOS) it still kills the worker's process group, but a parent that
was killed by SIGKILL goes unnoticed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from .processes import descendants

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


class _Stop(BaseException):
    """The parent asked for the end, or is gone."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _Stop


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _reap(worker: int) -> tuple[int | None, int]:
    """Wait for the worker, reaping orphans on the way; its wait status and its peak memory in bytes."""
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid == worker:
            # kilobytes on Linux, bytes on macOS (getrusage(2) of each)
            return status, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _end_all(worker: int) -> None:
    """Kill and reap every descendant; those whose parent died have become our own children."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def split(events: int, parent: int) -> None:
    """Fork: the child returns and is the worker, this process stays as its guardian and never returns.

    `events` is the descriptor on which the guardian writes one line when all is over: {"event": "exit",
    "status": wait status or null, "peak": bytes}. `parent` is the process id that started us.
    """
    worker, status, peak = 0, None, 0
    signal.signal(signal.SIGTERM, _stop)
    _prctl(_SET_CHILD_SUBREAPER, 1)
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)
    guardian = os.getpid()
    try:
        if os.getppid() != parent:  # it died before prctl could tell us
            os._exit(1)
        worker = os.fork()
        if worker == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _prctl(_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guardian:
                os._exit(1)
            return
        status, peak = _reap(worker)
    except _Stop:
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if worker and (status is None or sys.platform == "linux"):
        _end_all(worker)
    with contextlib.suppress(OSError):  # a parent that is gone reads nothing
        # The worker may have died in the middle of a line, so this one starts on a new line.
        os.write(
            events, b"\n" + json.dumps({"event": "exit", "status": status, "peak": peak}).encode() + b"\n"
        )
    if sys.platform != "linux":
        os.killpg(0, signal.SIGKILL)
    os._exit(0)
