"""A transformers model without weights, whose decoder layers are filled from the checkpoint one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....sources.huggingface import checkpoint
from ....targets.errors import Unsupported
from . import stream
from .layout import Layout, Weight

TORCH = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class _Stop(Exception):
    """Raised behind the last layer, where the model's forward pass has given all that is wanted."""


class Skeleton:
    """The model on torch's meta device: buffers are real, parameters have shapes only until `filled`."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        """Raises Unsupported where transformers has no model of this architecture, or names its layers otherwise."""
        self.layout = layout
        self.model = _empty(folder, TORCH[layout.weights[0].dtype])
        inner = getattr(self.model, "model", None)
        self.layers: Any = getattr(inner, "layers", ())
        if len(self.layers) != layout.layers:
            raise Unsupported(
                f"{type(self.model).__name__} does not keep its decoder in model.layers",
                where="config.json: architectures",
                mend="Choose w8a8-fp8, which needs no model",
            )
        self._weights: dict[int | None, list[Weight]] = {}
        for weight in layout.weights:
            self._weights.setdefault(weight.layer, []).append(weight)

    def weights(self, layer: int | None) -> list[Weight]:
        """The weights of one decoder layer; of None, those that stand outside of all."""
        return self._weights[layer]

    @contextmanager
    def filled(self, layer: int) -> Iterator[Any]:
        """The decoder layer with its weights; they are gone again afterwards, whatever became of them."""
        module = self.layers[layer]
        _fill(self.model, self.weights(layer))
        _realise(module)
        try:
            yield module
        finally:
            _empty_out(module)

    def embedded(self, windows: np.ndarray[Any, Any]) -> tuple[list[torch.Tensor], list[Mapping[str, Any]]]:
        """What goes into the first layer for each window (1, tokens, hidden), and each layer's other arguments.

        The arguments (masks, positions, rotations) are those of the first window: all are equally long.
        """
        table = self.model.get_input_embeddings()
        _fill(self.model, [w for w in self.weights(None) if w.name.endswith("embed_tokens.weight")])
        states: list[torch.Tensor] = []
        arguments: list[Mapping[str, Any]] = []
        with _recording(self.layers, states, arguments), torch.no_grad():
            for window in windows:
                try:
                    self.model(input_ids=torch.tensor(window)[None], use_cache=False)
                except _Stop:
                    continue
        _empty_out(table)
        return states, arguments[: len(self.layers)]


@contextmanager
def _recording(layers: Any, states: list[torch.Tensor], arguments: list[Mapping[str, Any]]) -> Iterator[None]:
    """Put recorders in the place of the layers' own functions."""

    def recorder(index: int) -> Callable[..., torch.Tensor]:
        def record(hidden_states: torch.Tensor, *_: Any, **named: Any) -> torch.Tensor:
            if index == 0:
                states.append(hidden_states.clone())
            if len(arguments) < len(layers):
                arguments.append(named)
            if index == len(layers) - 1:
                raise _Stop
            return hidden_states

        return record

    for index, layer in enumerate(layers):
        layer.forward = recorder(index)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _empty(folder: Path, dtype: torch.dtype) -> Any:
    import transformers
    from accelerate import init_empty_weights

    cleaned = checkpoint.clean_config(folder)
    try:
        config = transformers.AutoConfig.for_model(cleaned.pop("model_type"), **cleaned)
        with init_empty_weights(include_buffers=False):
            model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="eager", trust_remote_code=False
            )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Unsupported(
            f"transformers {transformers.__version__} cannot build this model: {error}", where="config.json"
        ) from error
    return model.eval()


def tensor(weight: Weight) -> torch.Tensor:
    """A weight of the checkpoint in the dtype that the model is loaded in; refused as `stream.cast` refuses."""
    made = torch.empty(weight.place.shape, dtype=TORCH[weight.dtype])
    flat = made.view(torch.uint8).numpy().reshape(-1)
    with stream.Source() as source:
        width = made.element_size() * math.prod(weight.place.shape[1:] or weight.place.shape)
        for first, rows in source.slabs(weight.place):
            data = np.frombuffer(stream.data(stream.cast(weight, rows)), np.uint8)
            flat[first * width : first * width + data.size] = data
    return made


def _fill(model: Any, weights: list[Weight]) -> None:
    for weight in weights:
        owner, _, name = weight.name.rpartition(".")
        module = model.get_submodule(owner)
        module.register_parameter(name, torch.nn.Parameter(tensor(weight), requires_grad=False))


def _realise(module: Any) -> None:
    """Give memory to what a quantizer has added (scales, zero points) while the model had no weights."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None and value.is_meta:
                part._parameters[name] = torch.nn.Parameter(
                    torch.zeros(value.shape, dtype=value.dtype), requires_grad=False
                )


def _empty_out(module: Any) -> None:
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(value.data.to("meta"), requires_grad=False)
