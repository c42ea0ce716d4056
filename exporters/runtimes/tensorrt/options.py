"""What a user can ask of a TensorRT build: shapes, memory, timing cache, compatibility and effort."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....targets.errors import UsageError

LEVELS = range(6)
"""Builder optimization levels: 0 builds fastest, 3 is TensorRT's own choice, 5 searches longest."""
HARDWARE = ("none", "same-compute-capability", "ampere-plus")
"""Hardware compatibility levels; TensorRT calls them NONE, SAME_COMPUTE_CAPABILITY and AMPERE_PLUS."""
LARGEST_AXIS = 1 << 20

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """The shapes that an engine takes for one input: the least, the one it is tuned for, and the greatest."""

    least: Shape
    best: Shape
    most: Shape


@dataclass(frozen=True)
class Settings:
    """The settings of one build. Everything that TensorRT leaves to its caller, but the precision: that is in
    the graph, since networks are strongly typed."""

    profiles: Mapping[str, Profile] = field(default_factory=dict)
    """By input with a free axis; empty for a graph of fixed shapes."""
    workspace_bytes: int | None = None
    """Most scratch memory of a layer; None: what the GPU has."""
    timing_cache: str | None = None
    """File of measured kernels, read and written, so that the next build is fast and alike."""
    version_compatible: bool = False
    hardware_compatible: str = "none"
    level: int = 3


def read(options: Mapping[str, Any], scheme: str) -> Settings:
    """The settings that the user gave, alike for every scheme and without profiles. UsageError names the option."""
    level = options.get("builder_level")
    if level is not None and level not in LEVELS:
        raise UsageError(f"{level} is not one of 0 to 5", where="--builder-level")
    hardware = options.get("hardware_compatible") or "none"
    if hardware not in HARDWARE:
        raise UsageError(
            f"{hardware!r} is not known", where="--hardware-compatible", mend=f"Known: {', '.join(HARDWARE)}"
        )
    cache = options.get("timing_cache")
    if cache and not re.fullmatch(r"[^\x00-\x1f]+", cache):
        raise UsageError(f"{cache!r} is not a file name", where="--timing-cache")
    read_shapes(options.get("shapes") or "")
    return Settings(
        workspace_bytes=options.get("workspace"),
        timing_cache=cache or None,
        version_compatible=bool(options.get("version_compatible")),
        hardware_compatible=hardware,
        level=3 if level is None else int(level),
    )


def read_shapes(text: str) -> dict[str, Profile]:
    """Profiles as the user writes them: least..best..most, fewer where they are alike; inputs apart by ";".

    >>> read_shapes("ids=1x1..1x128..8x512")["ids"].best
    (1, 128)
    """
    found: dict[str, Profile] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, listed = (piece.strip() for piece in part.partition("="))
        where = f"--shapes: {name}"
        if not equals or not name or name in found or listed.count("..") > 2:
            raise UsageError(
                "an input's shapes are given once, as least..best..most",
                where=where,
                mend="Write them as in ids=1x1..1x128..8x512",
            )
        shapes = [_shape(shape, where) for shape in listed.split("..")]
        least, most = shapes[0], shapes[-1]
        best = shapes[1] if len(shapes) == 3 else most
        if len({len(shape) for shape in shapes}) > 1:
            raise UsageError("the shapes differ in their number of axes", where=where)
        if not all(low <= mid <= high for low, mid, high in zip(least, best, most, strict=True)):
            raise UsageError("a size is not between the least and the greatest", where=where)
        found[name] = Profile(least, best, most)
    return found


def _shape(text: str, where: str) -> Shape:
    sizes = text.strip().split("x")
    if not all(re.fullmatch(r"\d{1,7}", size) and 1 <= int(size) <= LARGEST_AXIS for size in sizes):
        raise UsageError(
            f"{text.strip()!r} is not a shape", where=where, mend="Write sizes as in 1x3x224x224"
        )
    return tuple(map(int, sizes))


def profiles(
    inputs: Mapping[str, tuple[int | str | None, ...]],
    asked: Mapping[str, Profile],
    sequence: int,
    longest: int,
) -> dict[str, Profile]:
    """A profile for every input with a free axis: the user's, or batches of 1 to 8 around `sequence` tokens.

    Without a word of the user, axis 0 is the batch (1, 1 and 8), axis 1 of a rank-2 input the sequence (1,
    `sequence` and `longest`); any other free axis must be given. Raises UsageError naming input and axis.
    """
    unknown = sorted(asked.keys() - inputs.keys())
    if unknown:
        raise UsageError(
            f"there is no input {', '.join(unknown)}", where="--shapes", mend=f"Inputs: {', '.join(inputs)}"
        )
    found = {}
    for name, dims in inputs.items():
        if name in asked:
            _require_fit(name, dims, asked[name])
            if any(not isinstance(dim, int) for dim in dims):
                found[name] = asked[name]
        elif any(not isinstance(dim, int) for dim in dims):
            axes = [_free_axis(name, axis, dims, sequence, longest) for axis in range(len(dims))]
            least, best, most = (tuple(sizes) for sizes in zip(*axes, strict=True))
            found[name] = Profile(least, best, most)
    return found


def _free_axis(
    name: str, axis: int, dims: tuple[int | str | None, ...], sequence: int, longest: int
) -> tuple[int, int, int]:
    size = dims[axis]
    if isinstance(size, int):
        return size, size, size
    if axis == 0:
        return 1, 1, 8
    if axis == 1 and len(dims) == 2:
        return 1, sequence, max(sequence, longest)
    raise UsageError(
        f"axis {axis} of input {name!r} is free, and its sizes are not known",
        where="--shapes",
        mend=f"Give them as least..best..most, as in {name}={'x'.join('1' for _ in dims)}.."
        f"{'x'.join('8' for _ in dims)}",
    )


def _require_fit(name: str, dims: tuple[int | str | None, ...], profile: Profile) -> None:
    where = f"--shapes: {name}"
    if len(dims) != len(profile.best):
        raise UsageError(f"the input has {len(dims)} axes, not {len(profile.best)}", where=where)
    for axis, size in enumerate(dims):
        given = {profile.least[axis], profile.best[axis], profile.most[axis]}
        if isinstance(size, int) and given != {size}:
            raise UsageError(
                f"axis {axis} is {size} in the model, not {sorted(given)}",
                where=where,
                mend="Export the model with that axis free",
            )
