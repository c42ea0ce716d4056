"""`where` on free shapes: coremltools declares a result of the shape of its values, and forgets the condition's.

With fixed shapes its translation broadcasts all three first. With free ones `where(mask, 0, -inf)` would be declared
a single number, and what is built on it with wrong shapes; a transformer's mask is made so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def where(context: Any, node: Any) -> None:
    """where(condition, a, b), with `a` of the broadcast shape of all three where any of them is free."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.mil import types
    from coremltools.converters.mil.mil.types.symbolic import any_symbolic

    given = ops._get_inputs(context, node)
    if len(given) != 3 or not any(any_symbolic(each.shape) for each in given):
        ops.where(context, node)
        return
    condition, a, b = given
    a, b = ops.promote_input_dtypes([a, b])
    if not types.is_bool(condition.dtype):
        condition = mb.cast(x=condition, dtype="bool")
    a = _spread(a, condition)
    context.add(mb.select(cond=condition, a=a, b=b, name=node.name))


def _spread(value: Any, condition: Any) -> Any:
    """`value` in the shape that it has with `condition`."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    if value.rank == 0 and value.val is not None:
        return mb.fill_like(ref_tensor=condition, value=value.val)
    zeros = mb.fill_like(ref_tensor=condition, value=types.nptype_from_builtin(value.dtype)(0))
    if types.is_bool(value.dtype):
        return mb.logical_or(x=value, y=zeros)
    return mb.add(x=value, y=zeros)


TRANSLATIONS: Mapping[str, Callable[[Any, Any], None]] = {"where.self": where}
