"""The child: runs a job's steps in a process of its own, and tells the parent line by line how it goes."""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..targets.errors import BY_NAME, ConversionFailed, MissingExtra, ModelportError, Unsupported, WorkerDied
from .disk import disk_full
from .guardian import split
from .job import Job, Outcome, Progress

ROOT = __package__.rpartition(".")[0]
"""Name of the package that a step's leading "." stands for."""

_LONGEST_FACT = 400
_LONGEST_TRACEBACK = 64 << 10

_MEMORY_WORDS = ("std::bad_alloc", "not enough memory", "Cannot allocate memory", "OOM when allocating")
_DISK_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")


class _Events:
    """JSON lines to the parent, each written whole before the next statement of the step runs."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.stage = ""

    def send(self, **event: Any) -> None:
        data = json.dumps(event).encode() + b"\n"
        while data:
            data = data[os.write(self.descriptor, data) :]

    def progress(self, stage: str, done: int, total: int) -> None:
        self.stage = stage
        self.send(event="progress", stage=stage, done=int(done), total=int(total))


def load_step(step: str) -> Callable[[Job, Progress], Outcome]:
    """The function that "module:function" names; a module with a leading "." belongs to this package.

    Raises `Unsupported` when there is no such module or function, and `MissingExtra` when the module is there
    and something that it imports is not installed.
    """
    name, _, attribute = step.partition(":")
    module_name = ROOT + name if name.startswith(".") else name
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise Unsupported(f"there is no module {module_name}", where=step) from error
        raise
    try:
        function: Callable[[Job, Progress], Outcome] = getattr(module, attribute)
    except AttributeError as error:
        raise Unsupported(f"the module {module_name} has no function {attribute!r}", where=step) from error
    return function


def run_step(step: str, job: Job, progress: Progress) -> Outcome:
    """Call one step and hold it to its contract: an `Outcome` whose files lie in the staging folder."""
    outcome = load_step(step)(job, progress)
    if not isinstance(outcome, Outcome):
        raise ConversionFailed(f"the step returned {type(outcome).__name__}, not an Outcome", where=step)
    staging = Path(job.staging).resolve()
    for file in outcome.files:
        path = (staging / file).resolve()
        if not path.is_relative_to(staging) or not path.exists():
            raise ConversionFailed(f"the step reports a file {file!r} that it did not write", where=step)
    return outcome


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and all that it was raised from or while handling."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop(0)
        if link is not None and link not in found:
            found.append(link)
            waiting += [link.__cause__, link.__context__]
    return found


def explain(error: BaseException, job: Job, where: str) -> ModelportError:
    """The one error for people that stands for whatever a step raised; `where` says what was being done."""
    chain = _chain(error)
    for link in chain:
        full = disk_full(link, job.work, WorkerDied) if isinstance(link, OSError) else None
        if (
            full is None
            and any(word in _text(link) for word in _DISK_WORDS)
            and not isinstance(link, ModelportError)
        ):
            full = disk_full(OSError(errno.ENOSPC, "", None), job.work, WorkerDied)
        if full is not None:
            return full
    if isinstance(error, ModelportError) and not isinstance(error, ConversionFailed):
        return error
    for link in chain:
        if isinstance(link, MemoryError) or any(word in _text(link) for word in _MEMORY_WORDS):
            return WorkerDied(
                f"out of memory ({_line(link)})",
                where=where,
                mend="Close other programs, raise the limit, or convert on a machine with more memory.",
            )
    if isinstance(error, ModelportError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return MissingExtra(
            f"the Python module {error.name!r} is not installed",
            where=where,
            mend=f"Install the target's extra, as in: pip install '{ROOT}[{job.options.get('extra') or job.target}]'",
        )
    return ConversionFailed(_line(error), where=where, mend="Add --debug to see the traceback and the log.")


def _line(error: BaseException) -> str:
    """Type and message of an error in one line; the middle of a very long one is left out."""
    text = " ".join(f"{type(error).__name__}: {_text(error)}".split()).removesuffix(":")
    if len(text) > _LONGEST_FACT:
        text = f"{text[: _LONGEST_FACT - 100]} ... {text[-100:]}"
    return text.removesuffix(".")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an error class of a library whose own message fails
        return ""


def _send_error(events: _Events, error: ModelportError, cause: BaseException) -> None:
    name = next(
        (kind.__name__ for kind in type(error).__mro__ if kind.__name__ in BY_NAME), "ConversionFailed"
    )
    trace = "".join(traceback.format_exception(cause))[-_LONGEST_TRACEBACK:]
    events.send(
        event="error", name=name, fact=error.fact, where=error.where, mend=error.mend, traceback=trace
    )  # fmt: skip


def _prepare(job: Job) -> None:
    """No core files, the out-of-memory killer sent here first, and the user's own modules in reach."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write("500")
    except OSError:
        pass  # not Linux, or not allowed: the kernel chooses by size, which is most often us as well
    user_path = job.options.get("user_path")
    if user_path:
        # Last, so that a user's file called json.py or onnx.py takes nobody's place.
        sys.path.append(str(user_path))


def main(job_file: str, descriptor: int, parent: int) -> None:
    """Run the job in `job_file`, sending events to `descriptor`; never returns."""
    split(descriptor, parent)
    events = _Events(descriptor)
    job = Job.from_json(Path(job_file).read_text(encoding="utf-8"))
    _prepare(job)
    step = ""
    try:
        for step in job.steps:
            events.stage = ""
            events.send(event="start", name=step)
            outcome = run_step(step, job, events.progress)
            events.send(event="step", name=step, outcome=json.loads(outcome.to_json()))
    except BaseException as error:
        where = events.stage or step
        _send_error(events, explain(error, job, where), error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Not sys.exit: frameworks crash or hang in their exit handlers, and everything has been said.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
