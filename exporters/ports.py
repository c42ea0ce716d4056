"""Arrays by the source's names and layout as arrays by the artifact's, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .job import Port

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]


def to_artifact(feed: Arrays, ports: Iterable[Port]) -> dict[str, np.ndarray[Any, Any]]:
    """A feed by source names, layout and values as one by the artifact's."""
    return {port.artifact: _pixels(_turned(feed[port.source], port), port) for port in ports}


def _turned(array: np.ndarray[Any, Any], port: Port) -> np.ndarray[Any, Any]:
    return array.transpose(port.permutation) if port.permutation else array


def _pixels(array: np.ndarray[Any, Any], port: Port) -> np.ndarray[Any, Any]:
    """The pixels from which the artifact computes these values; they are not rounded to those that an image has."""
    if not port.scale:
        return array
    import numpy as np

    axes = (1, -1) + (1,) * (array.ndim - 2)
    scale, bias = (np.asarray(side, np.float32).reshape(axes) for side in (port.scale, port.bias))
    pixels: np.ndarray[Any, Any] = ((array - bias) / scale).astype(np.float32)
    return pixels


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
