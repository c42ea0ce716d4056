"""Our own translations of torch operators into MIL, known to coremltools only while a model is converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from . import operators, recurrent, where
from .keywords import watched

Translation = Callable[[Any, Any], None]
"""`translation(context, node)`: adds MIL operators and names their result, as coremltools' own do."""

TRANSLATIONS: Mapping[str, Translation] = {
    **operators.TRANSLATIONS,
    **recurrent.TRANSLATIONS,
    **where.TRANSLATIONS,
}
"""By coremltools' name of the operator (`known.kind`)."""


@contextmanager
def registered() -> Iterator[None]:
    """While inside, coremltools translates the operators of `TRANSLATIONS` by them, and all are watched.

    Its own table is put back as it was.
    """
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    table = _TORCH_OPS_REGISTRY.name_to_func_mapping
    before = dict(table)
    table.update({name: watched(function) for name, function in {**before, **TRANSLATIONS}.items()})
    try:
        yield
    finally:
        table.clear()
        table.update(before)
