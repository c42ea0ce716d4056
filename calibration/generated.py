"""Samples that no file holds: from the user's own `module:function`, and seeded random ones."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..targets.errors import UsageError
from ..targets.facts import Dim, IoFact
from . import doctor
from .model_files import config, whole
from .reading import Reading, Sample, Wanted, is_tokens

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SEQUENCE = 128
"""Tokens of random samples where neither the user nor the model says."""


def read_function(name: str, wanted: Wanted) -> Reading:
    """The first `wanted.limit` samples that the user's `module:function` gives.

    The function takes no argument and returns or yields samples: dicts of arrays by input name, or bare
    arrays for a model with one input. An array with one axis less than the input is one sample; otherwise its
    first axis counts samples. The module is imported from `wanted.root`: it is the user's code and runs.

    Raises UsageError naming the function and the item; an exception of the user's code is one as well.
    """
    return Reading("function", _rows(name, _call(name, wanted.root), wanted))


def _call(name: str, root: Path) -> Generator[Any, None, None]:
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, function_name, None)
        if not callable(function):
            raise UsageError(
                f"module {module_name} has no function {function_name!r}", where=f"--calibration {name}"
            )
        result = function()
        if isinstance(result, Mapping) or hasattr(result, "__array__"):
            result = [result]
        if not isinstance(result, Iterable):
            raise UsageError(
                f"the function returned {type(result).__name__}",
                where=f"--calibration {name}",
                mend="Return or yield dicts of arrays, or arrays",
            )
        yield from result
    except UsageError:
        raise
    except Exception as error:
        raise _broken(name, module_name, error) from error
    finally:
        sys.path.remove(str(root))


def _broken(name: str, module: str, error: Exception) -> UsageError:
    if isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0]):
        return UsageError(
            f"there is no module {error.name!r} in the current folder",
            where=f"--calibration {name}",
            mend="Run from the folder that holds it",
        )
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return UsageError(f"{type(error).__name__}: {error}", where=f"--calibration {name} ({place})")


def _rows(name: str, items: Generator[Any, None, None], wanted: Wanted) -> Generator[Sample, None, None]:
    given = 0
    with closing(items):
        for number, item in enumerate(items):
            where = f"{name}: item {number}"
            for arrays in _split(_arrays(item, wanted, where), wanted.inputs, where):
                yield Sample(arrays, where)
                given += 1
                if given == wanted.limit:
                    return


def _arrays(item: Any, wanted: Wanted, where: str) -> dict[str, Array]:
    """One item of the user's as arrays by input name."""
    import numpy as np

    if not isinstance(item, Mapping):
        if len(wanted.inputs) != 1:
            raise UsageError(
                f"{type(item).__name__} for a model with several inputs",
                where=where,
                mend=f"Yield dicts with the keys {wanted.names}",
            )
        item = {wanted.inputs[0].name: item}
    try:
        return {io.name: np.asarray(_pick(item, io, where)) for io in wanted.inputs}
    except (ValueError, TypeError) as error:
        raise UsageError(f"not an array: {error}", where=where) from None


def _pick(item: Mapping[str, Any], io: IoFact, where: str) -> Any:
    if io.name not in item:
        raise UsageError(
            f"no array for input {io.name!r}; there are {', '.join(map(str, item))}",
            where=where,
            mend="Name the keys after the model's inputs",
        )
    return item[io.name]


def _split(arrays: dict[str, Array], inputs: tuple[IoFact, ...], where: str) -> Iterator[dict[str, Array]]:
    """One item as single samples: an array as long in axes as its input counts samples along the first."""
    batches = {io.name: io.shape is not None and arrays[io.name].ndim == len(io.shape) for io in inputs}
    if not any(batches.values()):
        yield arrays
        return
    if not all(batches.values()) or len({len(array) for array in arrays.values()}) != 1:
        raise UsageError("inputs give different numbers of samples", where=where)
    for io in inputs:
        doctor.stop(doctor.fit(io, arrays[io.name].dtype.name, arrays[io.name].shape), where)
    for index in range(len(next(iter(arrays.values())))):
        yield {name: array[index] for name, array in arrays.items()}


def read_random(wanted: Wanted) -> Reading:
    """`wanted.limit` seeded samples: N(0, 1) for floats, ids drawn evenly from the vocabulary for integers.

    Masks are all ones, token types zero and positions ascend. Good enough to try a conversion; ranges
    measured on them are not those of real data, so the reading is marked.

    Raises UsageError for an input whose sizes are free beyond batch and sequence.
    """
    shapes = {io.name: _sizes(io, wanted) for io in wanted.inputs}
    vocabulary = whole(config(wanted.model_dir), "vocab_size")
    guessed = tuple(
        f"the vocabulary of input {io.name} is unknown: random ids are 0 and 1 only"
        for io in wanted.inputs
        if vocabulary is None and is_tokens(io) and _fixed_values(io) is None
    )
    warning = "the data is random: measured ranges are not those of real data, and fidelity says little"
    return Reading(
        "random", _random(wanted, shapes, vocabulary or 2), warnings=(warning, *guessed), random=True
    )


def _sizes(io: IoFact, wanted: Wanted) -> tuple[int, ...]:
    from . import preprocessor_config

    if io.shape is None:
        raise UsageError(
            "even the number of axes is unknown",
            where=f"input {io.name}",
            mend="Give data with --calibration: it settles them",
        )
    sizes: list[Dim] = list(io.shape[1:])
    recipe = preprocessor_config.find(wanted.model_dir) if len(sizes) == 3 else None
    if recipe is not None and recipe.size is not None:
        # Fill free heights and widths from the model's own recipe, whatever the layout.
        spatial = (1, 2) if isinstance(sizes[0], int) and sizes[0] in (1, 3) else (0, 1)
        for axis, extent in zip(spatial, recipe.size, strict=True):
            sizes[axis] = sizes[axis] if isinstance(sizes[axis], int) else extent
    for axis, size in enumerate(sizes):
        named = isinstance(size, str) and "seq" in size.lower()
        if not isinstance(size, int) and (named or (is_tokens(io) and axis == 0)):
            sizes[axis] = SEQUENCE
    if not all(isinstance(size, int) for size in sizes):
        raise UsageError(
            f"the sizes of shape {io.shape} are free",
            where=f"input {io.name}",
            mend="Give data with --calibration: it settles them",
        )
    return tuple(size for size in sizes if isinstance(size, int))


def _fixed_values(io: IoFact) -> str | None:
    """ "mask", "type" or "position" for token inputs that are no ids."""
    name = io.name.lower()
    if "mask" in name:
        return "mask"
    if "type" in name or "segment" in name:
        return "type"
    return "position" if "position" in name else None


def _random(
    wanted: Wanted, shapes: Mapping[str, tuple[int, ...]], vocabulary: int
) -> Generator[Sample, None, None]:
    import numpy as np

    generator = np.random.default_rng(wanted.seed)
    for number in range(wanted.limit):
        arrays: dict[str, Array] = {}
        for io in wanted.inputs:
            shape, role = shapes[io.name], _fixed_values(io)
            if io.dtype.startswith(("float", "bfloat")):
                arrays[io.name] = generator.standard_normal(shape, dtype=np.float32)
            elif io.dtype == "bool" or (role == "mask"):
                arrays[io.name] = np.ones(shape, np.int64).astype(io.dtype)
            elif role == "type":
                arrays[io.name] = np.zeros(shape, io.dtype)
            elif role == "position" and shape:
                arrays[io.name] = np.broadcast_to(np.arange(shape[-1]), shape).astype(io.dtype)
            elif io.dtype in ("uint8", "int8"):
                low, high = (0, 256) if io.dtype == "uint8" else (-128, 128)
                arrays[io.name] = generator.integers(low, high, shape).astype(io.dtype)
            else:
                arrays[io.name] = generator.integers(0, vocabulary, shape).astype(io.dtype)
        yield Sample(arrays, f"random sample {number}")
