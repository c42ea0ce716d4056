"""Every error that modelport raises on purpose, and the exit code that each one becomes.

    ModelportError
    ├── UsageError            2   wrong option, unreadable calibration data, output folder in the way
    │   └── MissingExtra      2   a part of modelport that is not installed
    ├── DoesNotFit            3   the feasibility check says no
    ├── SourceUnreadable      4   the model's files are damaged, inconsistent or unsafe
    ├── Unsupported           5   this source cannot go to this target, scheme or operator
    ├── ConversionFailed      6   the conversion itself broke
    │   └── WorkerDied        6   crash, kill, hang, memory limit or full disk in the worker process
    └── FidelityBelowBudget   7   the artifact does not compute the same thing closely enough

Ctrl-C ends with 130, a terminated run with 143. A message states the fact, where it is, and the mend.
"""

from __future__ import annotations


class ModelportError(Exception):
    """An error meant for a person: `fact` (what), `where` (file and field) and `mend` (what to do)."""

    exit_code = 6
    log = ""
    """What the worker that raised it had printed, and its traceback: shown with --debug."""

    def __init__(self, fact: str, *, where: str = "", mend: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        text = f"{self.where}: {self.fact}" if self.where else self.fact
        return f"{text}. {self.mend}" if self.mend else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.fact, self.where, self.mend))


def _rebuild(kind: type[ModelportError], fact: str, where: str, mend: str) -> ModelportError:
    return kind(fact, where=where, mend=mend)


class UsageError(ModelportError):
    """The request itself is wrong: an option, a path, or calibration data that does not match the input."""

    exit_code = 2


class MissingExtra(UsageError):
    """An optional part is not installed; the mend names the pip command that installs it."""


class DoesNotFit(ModelportError):
    """The model does not fit the device; raised before any framework is imported."""

    exit_code = 3
    check: object = None
    """The `pipeline.Check` whose verdict lists every term and what would fit instead."""


class SourceUnreadable(ModelportError):
    """The model's own files are damaged, inconsistent or unsafe; `where` names file and field."""

    exit_code = 4


class Unsupported(ModelportError):
    """The pair source × target, the scheme or an operator is not supported; the mend names what is."""

    exit_code = 5


class ConversionFailed(ModelportError):
    """The converter or quantizer failed."""

    exit_code = 6


class WorkerDied(ConversionFailed):
    """The worker process crashed, was killed, hung, ran out of memory or out of disk."""


class FidelityBelowBudget(ModelportError):
    """The artifact was made, but does not compute what the source computes closely enough."""

    exit_code = 7


BY_NAME: dict[str, type[ModelportError]] = {
    kind.__name__: kind
    for kind in (
        UsageError,
        MissingExtra,
        DoesNotFit,
        SourceUnreadable,
        Unsupported,
        ConversionFailed,
        WorkerDied,
        FidelityBelowBudget,
    )
}
"""Error classes by name: how an error raised in a worker is raised again in the parent."""
