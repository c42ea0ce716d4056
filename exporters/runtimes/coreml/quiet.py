"""coremltools without its log lines, progress bars and warnings, none of which is for a user of modelport."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quietly() -> Iterator[None]:
    """While inside, coremltools logs nothing, draws no bars and warns of nothing; all is put back after."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    bars = [(module, name, getattr(module, name)) for module, name in _with_bars()]
    for module, name, _ in bars:
        setattr(module, name, _bare)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for module, name, bar in bars:
            setattr(module, name, bar)


def _with_bars() -> list[tuple[Any, str]]:
    """The modules of coremltools that draw bars in a conversion, and their name for the bar."""
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.mil.passes import pass_pipeline

    return [
        (module, name)
        for module in (ops, pass_pipeline)
        for name in ("tqdm", "_tqdm")
        if hasattr(module, name)
    ]


def _bare(items: Any, **_: Any) -> Any:
    """What stands in for a bar: the items themselves."""
    return items
