"""GPTQ, AWQ and SmoothQuant by llm-compressor's own modifiers, on one decoder layer at a time.

The order of calls is that of its sequential pipeline: data goes through a layer and the modifiers' hooks look
on; the modifiers work on the layer; data goes through it once more, and is what the next layer sees. Here each
layer's weights are read when it is its turn and written when it is done, so that the model is never whole in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....targets.errors import ConversionFailed, SourceUnreadable, Unsupported
from ...job import Progress
from . import schemes, shards, stream
from .layout import Layout, Weight
from .resume import Kept
from .schemes import Scheme
from .skeleton import Skeleton

STAGE = "quantize decoder layers"


def write(
    source: Path,
    layout: Layout,
    scheme: Scheme,
    folder: Path,
    files: shards.Files,
    windows: np.ndarray[Any, Any],
    kept: Kept,
    progress: Progress,
) -> tuple[str, ...]:
    """Quantize on windows of tokens (windows, tokens) and write every tensor into `folder`; gives notes.

    What `kept` holds of an earlier run is taken from there. Raises Unsupported where llm-compressor does not know
    how this architecture's layers hang together.
    """
    with shards.Writer(folder, files, layout.stored) as writer:
        outside = [weight for weight in layout.weights if weight.layer is None]
        _copy(writer, outside)
        sizes = {tensor.name: tensor.nbytes for tensor in layout.stored}
        for layer in range(min(kept.done, layout.layers)):
            for name, data in kept.layer(layer, sizes):
                writer.write(name, data)
        if kept.done >= layout.layers:
            return ()
        return _layers(Skeleton(source, layout), scheme, writer, windows, kept, progress)


def _copy(writer: shards.Writer, weights: list[Weight]) -> None:
    with stream.Source() as source:
        for weight in weights:
            for first, rows in source.slabs(weight.place):
                made = stream.cast(weight, rows)
                writer.write(weight.name, stream.data(made), first * made.shape[1] * made.itemsize)


def _layers(
    skeleton: Skeleton,
    scheme: Scheme,
    writer: shards.Writer,
    windows: np.ndarray[Any, Any],
    kept: Kept,
    progress: Progress,
) -> tuple[str, ...]:
    from llmcompressor.core import LifecycleCallbacks
    from llmcompressor.modifiers.utils.hooks import HooksMixin

    count = skeleton.layout.layers
    states, arguments = skeleton.embedded(windows if not kept.done else windows[:1])
    if kept.done:
        states = kept.states(len(windows), states[0])
    with _session(skeleton.model, scheme, skeleton.layout.ignore) as modifiers:
        for index in range(kept.done, count):
            progress(STAGE, index, count)
            with skeleton.filled(index) as layer:
                for state in states:
                    _forward(layer, state, arguments[index])
                with _explained(scheme, f"model.layers.{index}"):
                    LifecycleCallbacks.sequential_epoch_end(list(layer.modules()))
                if index + 1 < count:
                    with HooksMixin.disable_hooks():
                        states = [_forward(layer, state, arguments[index]) for state in states]
                made = _compressed(skeleton, index)
                kept.keep(index, made, states if index + 1 < count else [])
                for name, data in made:
                    writer.write(name, data)
        progress(STAGE, count, count)
        return _notes(modifiers)


def _forward(layer: Any, state: torch.Tensor, arguments: Mapping[str, Any]) -> torch.Tensor:
    found = layer(state, **arguments)
    made: torch.Tensor = found[0] if isinstance(found, tuple) else found
    if not bool(torch.isfinite(made).all()):
        raise SourceUnreadable(
            "the calibration text gives NaN or infinite values in a decoder layer",
            where="--calibration",
            mend="Check the model: w8a8-fp8 needs no calibration",
        )
    return made


@contextmanager
def _session(model: Any, scheme: Scheme, ignore: tuple[str, ...]) -> Iterator[list[Any]]:
    """llm-compressor's session over the model, in the state of its sequential pipeline: the modifiers in order."""
    from llmcompressor.core import LifecycleCallbacks, active_session
    from llmcompressor.utils.helpers import DisableQuantization, calibration_forward_context

    session: Any = active_session()
    session.reset()
    with ExitStack() as stack, _explained(scheme, "config.json: architectures"):
        stack.enter_context(_unpinned())
        # Modifiers ask whether there is calibration data, and never look at it here.
        session.initialize(model=model, start=-1, recipe=schemes.recipe(scheme, ignore), calib_data=[None])
        LifecycleCallbacks.calibration_start()
        stack.enter_context(calibration_forward_context(model))
        stack.enter_context(DisableQuantization(model))
        session.state.loss_masks, session.state.sequential_prefetch = None, False
        held = stack.pop_all()
    with held:
        yield list(session.lifecycle.recipe.modifiers)


@contextmanager
def _explained(scheme: Scheme, where: str) -> Iterator[None]:
    """Turn what llm-compressor raises into one error of ours."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError, AttributeError, AssertionError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise Unsupported(
            f"llm-compressor cannot work on this architecture: {first[:300]}",
            where=where,
            mend=f"{scheme.name} needs its layers to be known; w8a8-fp8 needs no such knowledge",
        ) from error


@contextmanager
def _unpinned() -> Iterator[None]:
    """Let AWQ run where there is no accelerator, for which it would pin memory and fail."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    untouched = IntermediatesCache.pin_memory
    IntermediatesCache.pin_memory = lambda *_, **__: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = untouched


def _compressed(skeleton: Skeleton, index: int) -> list[tuple[str, memoryview]]:
    """The finished layer's tensors as they are stored, in compressed-tensors' own form."""
    from compressed_tensors.compressors.base import compress_module

    made: list[tuple[str, memoryview]] = []
    for weight in skeleton.weights(index):
        owner, _, _ = weight.name.rpartition(".")
        module = skeleton.model.get_submodule(owner)
        if len(weight.stored) > 1:
            compress_module(module)
        for stored in weight.stored:
            value = getattr(module, stored.name.rpartition(".")[2]).detach().contiguous()
            if tuple(value.shape) != stored.shape or value.nbytes != stored.nbytes:
                raise ConversionFailed(
                    f"llm-compressor made {value.dtype} {list(value.shape)}, "
                    f"and {stored.dtype} {list(stored.shape)} was expected",
                    where=stored.name,
                )
            made.append((stored.name, value.reshape(-1).view(torch.uint8).numpy().data))
    return made


def _notes(modifiers: list[Any]) -> tuple[str, ...]:
    fallen = [name for each in modifiers for name in getattr(each, "_rtn_fallback_module_names", ())]
    if not fallen:
        return ()
    return (
        f"{len(fallen)} matrices were rounded to nearest, as {fallen[0]}: their Hessian could not be inverted. "
        "More calibration text may mend it.",
    )
