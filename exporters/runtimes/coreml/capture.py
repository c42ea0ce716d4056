"""A torch model as an exported program, with what a package adds around it: image pixels in, probabilities out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ....targets.errors import ModelportError, Unsupported, UsageError
from ...torch_nodes import first_line
from . import boundary
from .options import Wanted

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from ....sources.loading.torch_model import TorchModel

PROBABILITIES = "probabilities"
"""The output that labels are attached to: softmax of the logits, beside the source's own outputs."""


def wrapped(model: TorchModel, wanted: Wanted, image: int | None) -> TorchModel:
    """The model as the package shall have it; the same model where nothing is asked for.

    With an image, input `image` takes pixels of 0 to 255. With labels, a last output holds their probabilities.
    Integer and boolean inputs of other widths than 32 and 64 bits, which Core ML's arrays lack, take int32.
    """
    import torch

    known = (torch.float32, torch.float64, torch.float16, torch.int32, torch.int64)
    narrow = {index: each.dtype for index, each in enumerate(model.example) if each.dtype not in known}
    odd = [str(dtype) for dtype in narrow.values() if dtype.is_floating_point or dtype.is_complex]
    if odd:
        raise Unsupported(f"an input of {odd[0]}", mend="Export the model with float32 inputs")
    if image is None and not wanted.labels and not narrow:
        return model
    module = _around(model.module, narrow, image, _affine(model, wanted, image), len(wanted.labels))
    return dataclasses.replace(
        model,
        module=module,
        output_names=(*model.output_names, PROBABILITIES) if wanted.labels else model.output_names,
        example=tuple(
            each.to(torch.int32) if index in narrow else each for index, each in enumerate(model.example)
        ),
    )


def _affine(model: TorchModel, wanted: Wanted, image: int | None) -> tuple[torch.Tensor, torch.Tensor] | None:
    import torch

    if image is None or wanted.image is None:
        return None
    scale, bias = boundary.per_channel(wanted.image, int(model.example[image].shape[1]))
    return torch.tensor(scale).reshape(1, -1, 1, 1), torch.tensor(bias).reshape(1, -1, 1, 1)


def _around(
    inner: torch.nn.Module,
    narrow: dict[int, torch.dtype],
    image: int | None,
    affine: tuple[torch.Tensor, torch.Tensor] | None,
    labels: int,
) -> torch.nn.Module:
    import torch

    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.training = False  # not by eval(): an exported program refuses to be told again
            self.inner = inner

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            given = [each.to(narrow[i]) if i in narrow else each for i, each in enumerate(tensors)]
            if image is not None and affine is not None:
                # By channel and in the graph: Core ML's own image preprocessing was made for one scale.
                given[image] = given[image] * affine[0] + affine[1]
            outputs = tuple(self.inner(*given))
            if not labels:
                return outputs
            return (*outputs, torch.softmax(_logits(outputs, labels).float(), -1))

    return Around()


def _logits(outputs: tuple[torch.Tensor, ...], labels: int) -> torch.Tensor:
    fitting = [each for each in outputs if each.dim() == 2 and tuple(each.shape) == (1, labels)]
    if not fitting:
        shapes = ", ".join(str(tuple(each.shape)) for each in outputs)
        raise UsageError(
            f"{labels} labels do not match any output, of shape {shapes}",
            where="--labels",
            mend=f"Labels name the columns of an output of shape (1, {labels})",
        )
    return fitting[0]


def exported(model: TorchModel, wanted: Wanted, path: str) -> ExportedProgram:
    """The model through torch.export, with the sizes that `wanted.shapes` leaves free, all others fixed.

    Raises Unsupported where torch cannot capture it, naming what torch says, and UsageError where the model
    does not work at the sizes asked for.
    """
    import torch

    free = boundary.free_axes(model, wanted)
    shapes = tuple(
        {axis: torch.export.Dim.DYNAMIC(min=least, max=most) for axis, (least, most) in axes.items()}
        for axes in (free.get(name, {}) for name in model.input_names)
    )
    try:
        with torch.no_grad():
            return torch.export.export(
                model.module,
                boundary.examples(model, wanted),
                dynamic_shapes=(shapes,) if free else None,
                strict=False,
            )
    except ModelportError:
        raise
    except Exception as error:  # torch raises whatever the model's own code met
        if free and ("Constraint" in str(error) or "dynamic" in str(error)):
            raise UsageError(
                f"the model does not work at every size asked for: {first_line(error)}",
                where="--shapes",
                mend="Ask for other sizes, or leave the option out",
            ) from error
        raise Unsupported(
            f"torch.export cannot capture the model: {first_line(error)}",
            where=path,
            mend="Replace control flow that depends on values",
        ) from error
