"""Our own translations of torch operators into MIL, known to coremltools only while a model is converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from . import recurrent, where

Translation = Callable[[Any, Any], None]
"""`translation(context, node)`: adds MIL operators and names their result, as coremltools' own do."""

TRANSLATIONS: Mapping[str, Translation] = {**recurrent.TRANSLATIONS, **where.TRANSLATIONS}
"""By coremltools' name of the operator (`known.kind`)."""


@contextmanager
def registered() -> Iterator[None]:
    """While inside, coremltools translates the operators of `TRANSLATIONS` by them; its own are put back after."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    table = _TORCH_OPS_REGISTRY.name_to_func_mapping
    before = dict(table)
    table.update(TRANSLATIONS)
    try:
        yield
    finally:
        table.clear()
        table.update(before)
