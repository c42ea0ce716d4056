"""Change the program of a converted model, and hand back a model that describes its inputs and outputs as before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import classes
from .quiet import quietly

Change = Callable[[Any], None]
"""Changes a PyMIL program (coremltools' `Program`) in place."""

CAST = "common::add_fp16_cast"
"""Where coremltools' own list of passes turns from fusing operators to choosing their precision."""


def rewritten(model: Any, *changes: Change) -> Any:
    """A new MLModel whose program went through `changes` in order, and coremltools' clean-up after them.

    Values that no change touches keep their names, so that what was observed by name stays true. Inputs,
    outputs, class labels and metadata are the old model's.
    """
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.models import utils

    class Changing(AbstractGraphPass):
        """All changes as one pass, which is what coremltools loads and writes a program around."""

        def apply(self, program: Any) -> None:
            for change in changes:
                change(program)

    with quietly(), _without_bars():
        bare, restored = classes.without(model)
        made = restored(utils._apply_graph_pass(bare, Changing(), skip_model_load=True))
    made.user_defined_metadata.update(dict(model.user_defined_metadata))
    return made


@contextmanager
def _without_bars() -> Iterator[None]:
    """While inside, coremltools' compression draws no progress bars; it has no switch for them."""
    from coremltools.optimize.coreml import _quantization_passes as passes

    bar = passes.tqdm
    passes.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        passes.tqdm = bar


def run_passes(program: Any, *names: str) -> None:
    """Run coremltools' registered passes of these names over a PyMIL program."""
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    for name in names:
        PASS_REGISTRY[name](program)


def precision_passes() -> tuple[str, ...]:
    """The passes that follow the cast to float16 in coremltools' default pipeline, without that cast itself."""
    from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline

    names = list(PassPipeline().passes)
    return tuple(names[names.index(CAST) + 1 :])


def operations(program: Any) -> Iterator[Any]:
    """Every operation of every function, those inside loops and branches included."""

    def inside(block: Any) -> Iterator[Any]:
        for op in list(block.operations):
            yield op
            for nested in op.blocks:
                yield from inside(nested)

    for function in program.functions.values():
        yield from inside(function)
