"""What every value of a converted program holds on the calibration samples: peaks, and ranges where int8 wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....calibration import observers
from ....calibration.ranges import Range, Watch, without_sentinels
from ....calibration.samples import SampleSet
from ....mil.evaluate import Evaluator
from ....mil.package import open_package
from ....mil.program import Block, Operation, Program, Reference, UnknownOperator
from ....targets.errors import Unsupported, UsageError
from ...job import Job, Progress
from ...ports import to_artifact
from .activations import COMPUTE, observed
from .convertible import Convertible

if TYPE_CHECKING:
    import numpy as np

    Feed = Mapping[str, np.ndarray[Any, Any]]

FEW = 16
"""Samples that show whether float16 overflows; ranges for int8 are taken from all of them."""


@dataclass(frozen=True)
class Seen:
    """What the float32 program was seen to hold, by the name of the value in the program."""

    peaks: Mapping[str, float]
    """Largest absolute value; what stands for infinity (masks) is left out."""
    ranges: Mapping[str, Range]
    """Of the activations that int8 is for; empty for other schemes."""
    powers: Mapping[str, float]
    """Mean square of a typical row (feature map) of what convolutions and linear layers give; likewise."""
    notes: tuple[str, ...]


def observe(model: Any, source: Convertible, job: Job, progress: Progress) -> Seen:
    """Run the float32 model (MLModel) on the calibration samples in the reference evaluator.

    Scheme "int8" takes all samples and `options["observer"]` ("minmax"); others only look for peaks, on a
    few, and go without where the evaluator lacks an operator. Raises Unsupported naming that operator for
    int8, and UsageError for int8 without samples.
    """
    static = job.quant == "int8"
    folder = Path(job.samples or "") / "calibration"
    if not (job.samples and (folder / "set.json").is_file()):
        if static:
            raise UsageError(
                "static int8 needs calibration data",
                where="--calibration",
                mend="Give it, or choose int8-weight",
            )
        return Seen({}, {}, {}, ())
    samples = SampleSet.open(folder)
    count = samples.count if static else min(samples.count, FEW)
    observer = str(job.options.get("observer") or "minmax")

    def feeds() -> Iterator[Feed]:
        for index, feed in enumerate(samples.feeds(limit=count)):
            progress("observe activations", index, count)
            yield _given(feed, source)
        progress("observe activations", count, count)

    try:
        peaks, ranges, powers = collect(Path(model.package_path), feeds(), observer if static else None)
    except UnknownOperator as error:
        if static:
            raise Unsupported(
                f"int8 needs the ranges of activations, and {error.fact}",
                where=f"--quant int8: {error.where}",
                mend="Choose int8-weight",
            ) from error
        return Seen({}, {}, {}, (f"Whether float16 overflows was not looked for: {error.fact}",))
    notes = (f"Ranges of {len(ranges)} activations from {count} samples by {observer}",) if static else ()
    return Seen(peaks, ranges, powers, notes)


def collect(
    package: Path, feeds: Iterable[Feed], observer: str | None
) -> tuple[dict[str, float], dict[str, Range], dict[str, float]]:
    """(largest absolute values, ranges, powers) of a float package's values over all feeds, by name.

    Every value has a peak, inputs included. Ranges are those of `activations.observed` inputs, by the observer
    of that name; powers those of the results of `activations.COMPUTE`; there are none where it is None.
    """
    import numpy as np

    program = open_package(package).program
    evaluator = Evaluator(program, rounding=False)
    watching = {} if observer is None else _watches(program, observer)
    results = {} if observer is None else _result_watches(program)
    peaks: dict[str, float] = {}

    def watch(name: str, values: np.ndarray[Any, Any]) -> None:
        if values.dtype.kind != "f" or not values.size:
            return
        inside = without_sentinels(values)
        peaks[name] = max(peaks.get(name, 0.0), float(np.fmax.reduce(np.abs(inside), axis=None)))
        if name in watching:
            watching[name].observe(inside)
        if name in results:
            results[name].observe(inside)

    for feed in feeds:
        for name, values in feed.items():
            watch(name, values)
        evaluator.run(feed, watch)
    ranges = {name: seen.range() for name, seen in watching.items() if name in peaks}
    return peaks, ranges, {name: seen.range().power for name, seen in results.items() if name in peaks}


def _watches(program: Program, observer: str) -> dict[str, Watch]:
    """One watch for each value that an operator could read in 8 bits."""
    make = observers.make(observer)
    found: dict[str, Watch] = {}
    for op in _operations(program.main.block):
        for name in observed(op.type):
            for given in op.inputs.get(name, ()):
                if isinstance(given, Reference):
                    found.setdefault(given.name, Watch(make(), feature_map=_gives_map(op)))
    return found


def _result_watches(program: Program) -> dict[str, Watch]:
    """One watch for each result of an operator that multiplies and accumulates."""
    make = observers.make("minmax")
    computing = [op for op in _operations(program.main.block) if op.type in COMPUTE]
    return {op.outputs[0].name: Watch(make(), feature_map=_gives_map(op)) for op in computing}


def _gives_map(op: Operation) -> bool:
    return len(op.outputs[0].type.shape) == 4


def _operations(block: Block) -> Iterator[Operation]:
    """Every operation of a block, those inside loops and branches included."""
    for op in block.operations:
        yield op
        for nested in op.blocks:
            yield from _operations(nested)


def _given(feed: Feed, source: Convertible) -> Feed:
    """One sample as the package takes it: by its names, and as pixels where an input is an image."""
    import numpy as np

    given = dict(to_artifact(feed, source.inputs))
    image = source.data.get("image")
    if image:
        name = image["input"]
        scale, bias = (np.reshape(image[key], (-1, 1, 1)).astype(np.float32) for key in ("scale", "bias"))
        given[name] = (given[name] - bias) / scale
    return given
