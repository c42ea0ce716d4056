"""The words in which the costs of Keras layers are told, and the layers that move values without computing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One operator of a layer: a suffix for its name, its op class and operations (None when unknown)."""

    suffix: str
    op_class: str
    flops: int | None


@dataclass(frozen=True)
class Cost:
    """One layer at given shapes. None where it cannot be known; `view` when no memory is written."""

    parts: tuple[Part, ...]
    weights: int | None
    out: Shape | None
    view: bool = False


UNKNOWN = Cost((Part("", "unknown", None),), None, None)

Config = Mapping[str, Any]
Layer = Callable[[Config, Sequence[Shape], Shape | None], Cost]


def spatial(config: Config, rank: int) -> tuple[int, bool]:
    """Channel axis, and whether channels come last, for an input of this rank."""
    last = config.get("data_format", "channels_last") != "channels_first"
    return (rank - 1 if last else 1), last


def sizes_of(value: Any, count: int) -> tuple[int, ...]:
    """A size that is given once for all axes or for each of them; ValueError when it is neither."""
    sizes = (value,) * count if isinstance(value, int) else tuple(value)
    if len(sizes) != count or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError("not a size")
    return sizes


def _identity(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    """Layers that only act in training."""
    return Cost((), 0, inputs[0], view=True)


def _flatten(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    return Cost((Part("", "movement", 0),), 0, (inputs[0][0], prod(inputs[0][1:])), view=True)


def _reshape(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape = list(config["target_shape"])
    if not all(type(size) is int for size in shape):
        raise ValueError("not a shape")
    if shape.count(-1) == 1:
        shape[shape.index(-1)] = prod(inputs[0][1:]) // prod(size for size in shape if size != -1)
    return Cost((Part("", "movement", 0),), 0, (inputs[0][0], *shape), view=True)


def _concatenate(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    shape, axis = list(inputs[0]), config.get("axis", -1)
    shape[axis] = sum(other[axis] for other in inputs)
    return Cost((Part("", "movement", 0),), 0, tuple(shape))


def _padding(sign: int) -> Layer:
    """ZeroPadding (sign 1) and Cropping (-1): the same on both sides, or (before, after) of each axis."""

    def layer(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
        given = config["padding" if sign > 0 else "cropping"]
        count = len(inputs[0]) - 2
        sides = [given] * count if isinstance(given, int) else [given] if count == 1 else given
        change = [sign * (2 * side if isinstance(side, int) else sum(side)) for side in sides]
        return _moved(out or _spaced(config, inputs[0], lambda at, size: size + change[at]))

    return layer


def _upsampling(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    factors = sizes_of(config["size"], len(inputs[0]) - 2)
    return _moved(out or _spaced(config, inputs[0], lambda at, size: size * factors[at]))


def _permute(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    return _moved((inputs[0][0], *(inputs[0][axis] for axis in config["dims"])))


def _repeat(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    return _moved((inputs[0][0], config["n"], inputs[0][1]))


def _masking(config: Config, inputs: Sequence[Shape], out: Shape | None) -> Cost:
    return _moved(inputs[0])


def _moved(shape: Shape) -> Cost:
    return Cost((Part("", "movement", 0),), 0, shape)


def _spaced(config: Config, shape: Shape, change: Callable[[int, int], int]) -> Shape:
    """The shape with its spatial sizes changed: `change` takes the spatial axis, from 0, and its size."""
    axis, _ = spatial(config, len(shape))
    space = [at for at in range(1, len(shape)) if at != axis]
    return tuple(change(space.index(at), size) if at in space else size for at, size in enumerate(shape))


MOVEMENT: Mapping[str, Layer] = {
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"), _identity),
    **dict.fromkeys(("GaussianNoise", "GaussianDropout", "AlphaDropout"), _identity),
    **dict.fromkeys(("ActivityRegularization", "Identity"), _identity),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Concatenate": _concatenate,
    "Permute": _permute,
    "RepeatVector": _repeat,
    "Masking": _masking,
    **dict.fromkeys([f"ZeroPadding{n}D" for n in (1, 2, 3)], _padding(1)),
    **dict.fromkeys([f"Cropping{n}D" for n in (1, 2, 3)], _padding(-1)),
    **dict.fromkeys([f"UpSampling{n}D" for n in (1, 2, 3)], _upsampling),
}
"""Layer classes that compute nothing at inference."""
