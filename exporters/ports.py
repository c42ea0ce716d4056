"""Arrays by the source's names and layout as arrays by the artifact's, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .job import Port

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]


def to_artifact(feed: Arrays, ports: Iterable[Port]) -> dict[str, np.ndarray[Any, Any]]:
    """A feed by source names and layout as one by the artifact's."""
    return {
        port.artifact: feed[port.source].transpose(port.permutation)
        if port.permutation
        else feed[port.source]
        for port in ports
    }


def to_source(outputs: Arrays, ports: Iterable[Port]) -> dict[str, np.ndarray[Any, Any]]:
    """Outputs by artifact names and layout as ones by the source's: the inverse of `to_artifact`."""
    return {
        port.source: outputs[port.artifact].transpose(_inverse(port.permutation))
        if port.permutation
        else outputs[port.artifact]
        for port in ports
    }


def _inverse(permutation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(permutation.index(axis) for axis in range(len(permutation)))
