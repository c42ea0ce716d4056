"""Which torch operators coremltools translates, ours included while they are registered."""

from __future__ import annotations

from typing import Any


def kind(target: Any) -> str:
    """coremltools' own name for the operator of an fx node: "gelu" for aten.gelu.default."""
    from coremltools.converters.mil.frontend.torch.utils import sanitize_op_kind

    name = target.name() if hasattr(target, "name") and callable(target.name) else None
    return str(sanitize_op_kind(name or getattr(target, "__name__", str(target))))


def is_known(target: Any) -> bool:
    """Whether coremltools has a translation of this operator (which may still fail on some arguments)."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    # Not get_func: reading an exported program, coremltools looks up the bare name, in-place form included.
    return kind(target) in _TORCH_OPS_REGISTRY.name_to_func_mapping
