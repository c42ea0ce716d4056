"""The parent: runs a job in a worker, watches it, and turns whatever happens into outcomes or one error."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ..targets.errors import BY_NAME, ConversionFailed, ModelportError, UsageError, WorkerDied
from . import interrupts
from .disk import disk_full, size_text
from .environment import environment
from .job import Job, Outcome
from .processes import descendants, kernel_kills, private_bytes

LOG_BYTES = 64 << 10
"""How much of the end of the worker's output an error carries in its `log`."""

_MEMORY_POLL = 0.02
_TREE_POLL = 0.2
_LIFE_POLL = 0.25
_FAREWELL = 10.0
"""Seconds that the guardian is given to end everything before it is killed itself."""


class Finished(dict[str, Outcome]):
    """Step to outcome, in the job's order, and what the worker took."""

    seconds: float = 0.0
    """Wall time from start to end."""
    peak_bytes: int = 0
    """Largest resident set of the worker, mapped files included."""
    log: str = ""
    """The end of what the worker printed."""


def run(
    job: Job,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    memory_limit: int | None = None,
    timeout: float | None = None,
) -> Finished:
    """Run every step of `job` in a worker of its own and wait for it.

    `on_progress(stage, done, total)` is called here, in the parent. `memory_limit` is in bytes of private and
    shared memory of the worker and all that it starts (pages of mapped model files do not count, the kernel
    takes them back at need); `timeout` is in seconds. Raises what a step raised, or `WorkerDied` when the
    worker crashed, was killed, hung or ran out of memory or disk; the error's `log` holds what it printed.
    Whatever happens, Ctrl-C and SIGTERM included, no process is left behind.
    """
    if memory_limit is not None and sys.platform != "linux":
        raise UsageError(
            "a memory limit can be watched on Linux only", where="--memory-limit", mend="Leave it out."
        )
    started = time.monotonic()
    watch = _Watch(job, on_progress, memory_limit, started + timeout if timeout is not None else None)
    with interrupts.raising():
        try:
            watch.start()
            watch.follow()
        finally:
            with interrupts.deferred():
                watch.end()
    if watch.reason == "memory":
        watch.fail(
            f"the worker went over its memory limit: {size_text(watch.reached)} reached, "
            f"{size_text(memory_limit or 0)} allowed",
            "Raise --memory-limit, or convert on a machine with more memory.",
        )
    if watch.reason == "timeout":
        watch.fail(f"no result after {timeout:g} s", "Raise --timeout if the conversion is only slow.")
    result = watch.result()
    result.seconds = time.monotonic() - started
    return result


class _Watch:
    """One worker from start to end. All that is known of it is kept here, so that an error can tell it."""

    def __init__(
        self,
        job: Job,
        on_progress: Callable[[str, int, int], None] | None,
        memory_limit: int | None,
        deadline: float | None,
    ) -> None:
        self.job, self.on_progress = job, on_progress
        self.memory_limit, self.deadline = memory_limit, deadline
        self.process: subprocess.Popen[bytes] | None = None
        self.events = self.log = -1
        self.pending, self.tail = bytearray(), bytearray()
        self.outcomes: dict[str, Outcome] = {}
        self.error: dict[str, Any] | None = None
        self.exit: dict[str, Any] | None = None
        self.step = self.progress = ""
        self.reason = ""  # why we ended it: "memory" or "timeout"
        self.reached = 0
        self.tree: list[int] = []
        self.tree_read = 0.0
        self.kills_before = kernel_kills()

    def start(self) -> None:
        """Write the job and start the worker, in a session of its own and with two pipes to us."""
        work = Path(self.job.work)
        try:
            variables = environment(self.job, work)
            (work / "job.json").write_text(self.job.to_json(), encoding="utf-8")
        except OSError as error:
            raise disk_full(error, work) or error from error
        with interrupts.deferred():
            self.events, events_end = os.pipe()
            self.log, log_end = os.pipe()
            os.set_blocking(self.events, False)
            os.set_blocking(self.log, False)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-X", "faulthandler", "-m", f"{__package__}.worker",
                     str(work / "job.json"), str(events_end), str(os.getpid())],
                    stdin=subprocess.DEVNULL, stdout=log_end, stderr=log_end, pass_fds=(events_end,),
                    cwd=work, env=variables, umask=0o077, start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(events_end)
                os.close(log_end)

    def follow(self) -> None:
        """Read events and log until the worker and all its children have ended, or a limit is passed."""
        assert self.process is not None
        with selectors.DefaultSelector() as selector:
            for descriptor in (self.events, self.log):
                selector.register(descriptor, selectors.EVENT_READ)
            while self.exit is None and not self.reason:
                ended = self.process.poll() is not None
                ready = selector.select(0 if ended else self._patience())
                for key, _ in ready:
                    if not self._read(key.fd):
                        selector.unregister(key.fd)
                if ended and not ready:
                    return
                if self.exit is None:
                    self._check_limits()

    def _patience(self) -> float:
        wait = _LIFE_POLL if self.memory_limit is None else _MEMORY_POLL
        return wait if self.deadline is None else max(0.0, min(wait, self.deadline - time.monotonic()))

    def _check_limits(self) -> None:
        now = time.monotonic()
        if self.deadline is not None and now >= self.deadline:
            self.reason = "timeout"
        if self.memory_limit is not None and self.process is not None:
            if now - self.tree_read >= _TREE_POLL or not self.tree:
                self.tree, self.tree_read = descendants(self.process.pid), now
            self.reached = sum(map(private_bytes, self.tree))
            if self.reached > self.memory_limit:
                self.reason = "memory"

    def _read(self, descriptor: int) -> bool:
        """Take in what lies in a pipe; False at its end."""
        data = os.read(descriptor, 1 << 16)
        if descriptor == self.log:
            self.tail += data
            del self.tail[:-LOG_BYTES]
        else:
            self.pending += data
            *lines, rest = self.pending.split(b"\n")
            self.pending = bytearray(rest)
            for line in lines:
                self._take(bytes(line))
        return bool(data)

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return  # the line that a dying worker did not finish
        kind = event["event"]
        if kind == "progress":
            self.progress = event["stage"]
            if self.on_progress is not None:
                self.on_progress(event["stage"], event["done"], event["total"])
        elif kind == "start":
            self.step, self.progress = event["name"], ""
        elif kind == "step":
            self.outcomes[event["name"]] = Outcome.from_json(json.dumps(event["outcome"]))
        elif kind == "error":
            self.error = event
        elif kind == "exit":
            self.exit = event

    def end(self) -> None:
        """Leave no process and no descriptor behind; read what is left in the pipes."""
        if self.process is not None:
            if self.process.poll() is None and self.exit is None:
                self.process.terminate()
            try:
                self.process.wait(_FAREWELL)
            except subprocess.TimeoutExpired:
                for pid in [*descendants(self.process.pid), self.process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()
            if self.exit is None:  # the guardian was killed: only the group can still be reached
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, signal.SIGKILL)
            self.on_progress = None
            self._drain()
        for descriptor in (self.events, self.log):
            if descriptor >= 0:
                os.close(descriptor)

    def _drain(self) -> None:
        """Read what still lies in the pipes, without waiting for more."""
        for descriptor in (self.events, self.log):
            with contextlib.suppress(BlockingIOError):
                while self._read(descriptor):
                    pass

    def result(self) -> Finished:
        """The outcomes, or the error that ended the worker."""
        if self.error is not None:
            kind = BY_NAME.get(self.error["name"], ConversionFailed)
            error = kind(self.error["fact"], where=self.error["where"], mend=self.error["mend"])
            self._throw(error, self.error["traceback"])
        if list(self.outcomes) != list(dict.fromkeys(self.job.steps)):
            self._explain_death()
        result = Finished(self.outcomes)
        result.peak_bytes = self.exit["peak"] if self.exit else 0
        result.log = self.tail.decode("utf-8", "replace")
        return result

    def _explain_death(self) -> NoReturn:
        status = self.exit["status"] if self.exit else None
        if status is None:
            self.fail("the worker was killed from outside, and its guardian with it", "Run it again.")
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            self.fail(f"the worker ended with exit code {code} and no result", "Add --debug to see its log.")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if -code == signal.SIGKILL and kernel_kills() > self.kills_before:
            peak = size_text(self.exit["peak"]) if self.exit else "unknown"
            self.fail(
                f"the system ran out of memory and its out-of-memory killer ended the worker (peak {peak})",
                "Close other programs, or convert on a machine with more memory.",
            )
        if -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
            self.fail(
                f"the worker was killed from outside ({name})", "Find out what killed it, and run it again."
            )
        self.fail(
            f"the converter crashed ({name})",
            "Add --debug to see its log; this is a bug of the library it uses.",
        )

    def fail(self, fact: str, mend: str) -> NoReturn:
        """Raise `WorkerDied`, saying what the worker was doing."""
        where = self.progress or self.step or "starting the worker"
        self._throw(WorkerDied(fact, where=where, mend=mend))

    def _throw(self, error: ModelportError, trace: str = "") -> NoReturn:
        error.log = "\n".join(part for part in (self.tail.decode("utf-8", "replace").rstrip(), trace) if part)
        raise error
