"""Decompositions of ours, for operators that torch would break down into primitives without a form in Core ML.

torch's own rules for `trunc`, `fmod`, `prod` or `a | b` end in `prims.*` operators, which nothing translates, and
some operators (`cdist`) have no rule at all. Each rule here is the operator's definition in torch's documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def _trunc(x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.where(x < 0, torch.ceil(x), torch.floor(x))


def _fmod(x: torch.Tensor, y: Any) -> torch.Tensor:
    """x - trunc(x / y) * y: the sign of x, unlike the remainder."""
    return x - _trunc(x / y) * y


def _or(x: torch.Tensor, y: torch.Tensor) -> Any:
    import torch

    return torch.logical_or(x, y) if x.dtype == y.dtype == torch.bool else NotImplemented


def _xor(x: torch.Tensor, y: torch.Tensor) -> Any:
    import torch

    return torch.logical_xor(x, y) if x.dtype == y.dtype == torch.bool else NotImplemented


def _cdist(x: torch.Tensor, y: torch.Tensor, p: float, compute_mode: int | None = None) -> torch.Tensor:
    """The p-norm of each difference, without the product form that torch takes where it is quicker."""
    import torch

    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, dim=-1)


def rules() -> dict[Any, Callable[..., Any]]:
    """Rule by operator."""
    import torch

    aten = torch.ops.aten
    return {
        aten.trunc.default: _trunc,
        aten.fix.default: _trunc,
        aten.fmod.Tensor: _fmod,
        aten.fmod.Scalar: _fmod,
        aten.bitwise_or.Tensor: _or,
        aten.bitwise_xor.Tensor: _xor,
        aten._cdist_forward.default: _cdist,
    }
