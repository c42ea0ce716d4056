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
    switched = [(module, module._tqdm) for module in _with_bars()]
    for module, bar in switched:
        module._tqdm = _bare(bar)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for module, bar in switched:
            module._tqdm = bar


def _with_bars() -> list[Any]:
    """The modules of coremltools that draw bars in a conversion."""
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.mil.passes import pass_pipeline

    return [module for module in (ops, pass_pipeline) if hasattr(module, "_tqdm")]


def _bare(bar: Any) -> Any:
    def without(items: Any, **_: Any) -> Any:
        return bar(items, disable=True)

    return without
