"""A source as something that coremltools converts: torch by torch.export, our passes, and its torch frontend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...job import Job, Port
from . import boundary, capture, passes, quiet, route
from .convertible import Convertible
from .options import Wanted
from .passes import translations

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ....sources.loading.torch_model import TorchModel

    Array = np.ndarray[Any, Any]


def source(job: Job, wanted: Wanted) -> Convertible:
    """The job's source, loaded and turned into a graph; what fails here fails before coremltools starts.

    Raises what the loaders raise, UsageError for shapes, images or labels that do not match the model, and
    Unsupported naming operator and source line for what has no form.
    """
    if job.source_kind in ("keras", "saved-model"):
        from . import tensorflow

        return tensorflow.source(job, wanted)
    from ....sources.loading import torch_model

    path = Path(job.source_path)
    with quiet.quietly():
        return from_torch(torch_model.load(job.source_kind, path, job.options), wanted, str(path))


def from_torch(model: TorchModel, wanted: Wanted, path: str) -> Convertible:
    """A torch model as a Convertible; `path` is for errors."""
    image = None if wanted.image is None else boundary.image_index(model)
    outer = capture.wrapped(model, wanted, image)
    program = capture.exported(outer, wanted, path)
    with translations.registered():
        prepared = passes.prepare(program)
        route.refuse_unknown(prepared, path)
    inputs = boundary.legal_names(outer.input_names, taken=(route.LABEL, route.PROBABILITIES))
    outputs = boundary.legal_names(outer.output_names, taken=(*inputs, route.LABEL, route.PROBABILITIES))
    road = route.Route(outer, program, prepared, wanted, image, inputs, outputs, path)
    data = _data(model, wanted, image, inputs)
    return Convertible(
        build=road.build,
        inputs=_ports(model.input_names, inputs, data.get("image")),
        outputs=tuple(map(Port, model.output_names, outputs)),
        program=prepared,
        arguments=lambda feeds: _arguments(feeds, outer, data.get("image")),
        notes=(f"Minimum deployment target {wanted.target}.",),
        data=data,
    )


def _ports(
    names: tuple[str, ...], inputs: tuple[str, ...], image: Mapping[str, Any] | None
) -> tuple[Port, ...]:
    """The inputs' ports; an image's tells how the source's values come from pixels, for verification."""
    ports = []
    for source, artifact in zip(names, inputs, strict=True):
        if image is not None and source == image["source"]:
            port = Port(source, artifact, scale=tuple(image["scale"]), bias=tuple(image["bias"]))
        else:
            port = Port(source, artifact)
        ports.append(port)
    return tuple(ports)


def _data(model: TorchModel, wanted: Wanted, image: int | None, inputs: tuple[str, ...]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "deployment_target": wanted.target,
        "compute_units": wanted.compute_units,
        "labels": len(wanted.labels),
    }
    if image is not None and wanted.image is not None:
        scale, bias = boundary.per_channel(wanted.image, int(model.example[image].shape[1]))
        data["image"] = {
            "source": model.input_names[image], "input": inputs[image], "scale": scale, "bias": bias,
        }  # fmt: skip
    return data


def _arguments(
    feeds: Mapping[str, Array], model: TorchModel, image: Mapping[str, Any] | None
) -> tuple[torch.Tensor, ...]:
    """Samples as the program takes them; an image's values go back to pixels, rounded as a camera gives them."""
    import torch

    given = []
    for name, example in zip(model.input_names, model.example, strict=True):
        tensor = torch.tensor(feeds[name])
        if image is not None and name == image["source"]:
            scale, bias = (torch.tensor(image[key]).reshape(1, -1, 1, 1) for key in ("scale", "bias"))
            tensor = ((tensor - bias) / scale).round().clamp(0, 255)
        given.append(tensor.to(example.dtype))
    return tuple(given)
