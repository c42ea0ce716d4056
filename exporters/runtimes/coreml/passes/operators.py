"""Operators that coremltools' torch frontend reads wrongly or not at all, and MIL has a form of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def gelu(context: Any, node: Any) -> None:
    """gelu(x, approximate="none"): coremltools overlooks the keyword, and takes tanh's form for the exact one."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs, _get_kwinputs

    x = _get_inputs(context, node)[0]
    (form,) = _get_kwinputs(context, node, "approximate", default=["none"])
    form = getattr(form, "val", form)
    mode = "TANH_APPROXIMATION" if form == "tanh" else "EXACT"
    context.add(mb.gelu(x=x, mode=mode, name=node.name))


def prod(context: Any, node: Any) -> None:
    """prod(x) and prod(x, axis, keepdim=False), which the frontend lacks."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    x, *rest = _get_inputs(context, node)
    axes = [rest[0].val] if rest and rest[0] is not None else None
    keep = bool(rest[1].val) if len(rest) > 1 else False
    context.add(mb.reduce_prod(x=x, axes=axes, keep_dims=keep, name=node.name))


def reciprocal(context: Any, node: Any) -> None:
    """1 / x: coremltools writes 1 / (x + 0.0001), which Core ML's `inverse` is by default."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.mil import types

    x = _get_inputs(context, node)[0]
    x = x if types.is_float(x.dtype) else mb.cast(x=x, dtype="fp32")
    one = types.nptype_from_builtin(x.dtype)(1)
    context.add(mb.real_div(x=one, y=x, name=node.name))


def clone(context: Any, node: Any) -> None:
    """A copy is a value of its own, as `outputs` needs; coremltools gives the original the copy's name."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    context.add(mb.identity(x=_get_inputs(context, node)[0], name=node.name))


TRANSLATIONS: Mapping[str, Callable[[Any, Any], None]] = {
    "gelu": gelu,
    "prod": prod,
    "prod.dim_int": prod,
    "reciprocal": reciprocal,
    "clone": clone,
}
