"""The first step of a worker: is everything that this conversion imports installed?"""

from __future__ import annotations

import importlib
import importlib.util

from ..targets.errors import MissingExtra
from .job import Job, Outcome, Progress


def check(job: Job, progress: Progress) -> Outcome:
    """Raise MissingExtra, naming the pip command, unless the runtime's REQUIRES can all be found.

    A runtime may have REQUIRES_FOR as well, by kind of source: the extra and its modules, as in
    {"keras": ("tensorflow", ("tf2onnx",))}.

    Finds modules without importing them, so a library that is installed but broken still shows its own error.
    """
    runtime = importlib.import_module(job.options["runtime_module"])
    missing = [name for name in runtime.REQUIRES if not _found(name)]
    if missing:
        raise MissingExtra(
            f"target {job.target!r} needs {', '.join(missing)}, not installed here",
            mend=f"pip install 'modelport[{job.options['extra']}]'",
        )
    extra, modules = getattr(runtime, "REQUIRES_FOR", {}).get(job.source_kind, ("", ()))
    missing = [name for name in modules if not _found(name)]
    if missing:
        raise MissingExtra(
            f"a {job.source_kind} source needs {', '.join(missing)} on its way to {job.target!r}, not installed here",
            mend=f"pip install 'modelport[{extra}]'",
        )
    return Outcome()


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
