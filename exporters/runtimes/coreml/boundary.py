"""The package's inputs and outputs: names, dtypes, fixed and free shapes, and images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ....targets.errors import Unsupported, UsageError
from .options import Axis, Image, Wanted

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from ....sources.loading.torch_model import TorchModel

RESERVED = frozenset(
    ("any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "bf16", "fp16",
     "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "state")
)  # fmt: skip
"""Words of MIL's grammar, which coremltools renames (NameSanitizer)."""
LISTS_TARGET = "iOS18"
"""The oldest iOS that takes lists of shapes for more than one input."""
MOST_AXES = 5
"""Core ML's arrays have at most five axes (rank of an MLMultiArray input of an ML program)."""


def legal_names(names: Iterable[str], taken: Iterable[str] = ()) -> tuple[str, ...]:
    """The names as Core ML can have them, unique also against `taken`; legal names stay as they are."""
    used = set(taken)
    found = []
    for name in names:
        legal = re.sub(r"[^a-zA-Z0-9_]", "_", name)
        legal = legal if re.match(r"[a-zA-Z]", legal) else f"x{legal}"
        legal = f"{legal}_" if legal in RESERVED else legal
        base, count = legal, 1
        while legal in used:
            legal, count = f"{base}_{count}", count + 1
        used.add(legal)
        found.append(legal)
    return tuple(found)


def free_axes(model: TorchModel, wanted: Wanted) -> dict[str, dict[int, tuple[int, int]]]:
    """By input, the axes that `wanted.shapes` leaves free, with the least and largest size of each.

    Raises UsageError for inputs, axes and sizes that the model does not have.
    """
    found: dict[str, dict[int, tuple[int, int]]] = {}
    examples = dict(zip(model.input_names, model.example, strict=True))
    for name, shapes in wanted.shapes.items():
        where = f"--shapes: {name}"
        if name not in examples:
            raise UsageError("there is no such input", where=where, mend=f"Inputs: {', '.join(examples)}")
        example, free = examples[name], model.dynamic.get(name, {})
        if len(shapes[0]) != example.dim():
            raise UsageError(f"the input has {example.dim()} axes, not {len(shapes[0])}", where=where)
        for axis, own in enumerate(example.shape):
            least, most = _span(shape[axis] for shape in shapes)
            if axis not in free and (least, most) != (own, own):
                raise UsageError(f"axis {axis} of the model is {own}, and cannot be otherwise", where=where)
            if least != most:
                found.setdefault(name, {})[axis] = (least, most)
    listed = [name for name, shapes in wanted.shapes.items() if len(shapes) > 1]
    if len(listed) > 1 and wanted.target < LISTS_TARGET:
        raise UsageError(
            f"lists of shapes for {len(listed)} inputs need {LISTS_TARGET}, not {wanted.target}",
            where="--shapes",
            mend=f"Give ranges, as in {listed[0]}=1x1..128, or --deployment-target {LISTS_TARGET}",
        )
    if len({len(wanted.shapes[name]) for name in listed}) > 1:
        raise UsageError("the inputs' lists differ in length: they are taken together", where="--shapes")
    return found


def _span(sizes: Iterable[Axis]) -> tuple[int, int]:
    ends = [(size, size) if isinstance(size, int) else size for size in sizes]
    return min(end[0] for end in ends), max(end[1] for end in ends)


def examples(model: TorchModel, wanted: Wanted) -> tuple[torch.Tensor, ...]:
    """One tensor an input to export with: the model's own example, resized where `wanted.shapes` says so.

    A range takes the example's size where that lies inside, otherwise its largest; a list takes its first.
    """
    import torch

    found = []
    for name, example in zip(model.input_names, model.example, strict=True):
        if name in wanted.shapes:
            first = wanted.shapes[name][0]
            sizes = [_inside(axis, own) for axis, own in zip(first, example.shape, strict=True)]
            example = torch.ones(sizes, dtype=example.dtype)
        found.append(example)
    return tuple(found)


def _inside(axis: Axis, own: int) -> int:
    if isinstance(axis, int):
        return axis
    return own if axis[0] <= own <= axis[1] and own > 1 else axis[1]


def image_index(model: TorchModel) -> int:
    """Which input takes the image: the only one of shape (batch, 1 or 3, height, width)."""
    fitting = [
        index
        for index, example in enumerate(model.example)
        if example.dim() == 4 and example.shape[1] in (1, 3)
    ]
    if len(fitting) != 1 or not model.example[fitting[0]].is_floating_point():
        raise UsageError(
            f"{len(fitting)} inputs have the shape of an image, (batch, 1 or 3, height, width)",
            where="--image-input",
            mend="Leave the option out, and give the package arrays",
        )
    return fitting[0]


def per_channel(image: Image, channels: int) -> tuple[list[float], list[float]]:
    """Scale and bias of each channel. Raises UsageError where their number does not match."""
    sides = []
    for values in (image.scale, image.bias):
        if len(values) not in (1, channels):
            raise UsageError(f"{len(values)} values for {channels} channels", where="--image-input")
        sides.append(list(values) * channels if len(values) == 1 else list(values))
    return sides[0], sides[1]


def input_types(
    program: ExportedProgram,
    names: tuple[str, ...],
    shapes: Mapping[str, tuple[tuple[Axis, ...], ...]],
    examples: tuple[torch.Tensor, ...],
    image: int | None,
) -> list[Any]:
    """coremltools' descriptions of the program's inputs; `shapes` are those asked for, by name in `names`.

    Axes that the program has under one symbol share it, so that Core ML knows that they are equal. A free axis
    has the example's size as its default, where that lies inside its range.
    """
    import coremltools as ct
    import numpy as np

    shared: dict[str, Any] = {}
    described = []
    for index, (name, fake) in enumerate(zip(names, user_inputs(program), strict=True)):
        if not 1 <= fake.dim() <= MOST_AXES:
            raise Unsupported(
                f"the input has {fake.dim()} axes, Core ML takes 1 to {MOST_AXES}", where=f"input {name}"
            )
        listed = shapes.get(name, ())
        if len(listed) > 1:
            shape: Any = ct.EnumeratedShapes(shapes=[list(each) for each in listed])
        else:
            asked = listed[0] if listed else (None,) * fake.dim()
            shape = [
                _dimension(size, axis, int(own), shared)
                for size, axis, own in zip(fake.shape, asked, examples[index].shape, strict=True)
            ]
        if index == image:
            layout = ct.colorlayout.RGB if fake.shape[1] == 3 else ct.colorlayout.GRAYSCALE
            described.append(ct.ImageType(name=name, shape=shape, color_layout=layout))
        else:
            dtype = np.float32 if fake.is_floating_point() else np.int32
            described.append(ct.TensorType(name=name, shape=shape, dtype=dtype))
    return described


def user_inputs(program: ExportedProgram) -> list[Any]:
    """The fake tensors of the program's inputs, in order."""
    wanted = set(program.graph_signature.user_inputs)
    return [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in wanted and hasattr(node.meta.get("val"), "shape")
    ]


def _dimension(size: Any, asked: Axis | None, own: int, shared: dict[str, Any]) -> Any:
    """A fixed size, or the range that was asked for: torch's own bounds start at 2, its traces serve 1 as well."""
    import coremltools as ct

    if isinstance(size, int) or not isinstance(asked, tuple):
        return int(size)
    symbol = str(size)
    if symbol not in shared:
        least, most = asked
        default = own if least <= own <= most else most
        shared[symbol] = ct.RangeDim(lower_bound=least, upper_bound=most, default=default)
    return shared[symbol]


def output_types(program: ExportedProgram, names: tuple[str, ...]) -> list[Any]:
    """coremltools' descriptions of the outputs: float32 whatever is computed in, int32 for integers and booleans."""
    import coremltools as ct
    import numpy as np

    (output,) = (node for node in program.graph.nodes if node.op == "output")
    values = [node.meta["val"] for node in output.args[0]]
    return [
        ct.TensorType(name=name, dtype=np.float32 if value.is_floating_point() else np.int32)
        for name, value in zip(names, values, strict=True)
    ]
