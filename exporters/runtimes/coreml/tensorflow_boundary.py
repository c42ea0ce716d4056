"""The boundary of a package that comes from TensorFlow: names, dtypes, sizes, images and labels around the graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....calibration.samples import SampleSet
from ....targets.errors import Unsupported, UsageError
from ...job import Job
from . import boundary
from .capture import PROBABILITIES
from .options import Axis, Wanted
from .route import LABEL
from .route import PROBABILITIES as LABEL_PROBABILITIES

Sizes = tuple[tuple[Axis, ...], ...]
"""One shape of an input, which may hold ranges, or several fixed ones."""

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""Axis orders from the other layout, as `numpy.transpose` takes them."""


def sizes(model: Any, wanted: Wanted, job: Job) -> dict[str, Sizes]:
    """The shapes of each input: as asked for, as the samples are, or with batch 1 and `options["sequence"]` tokens.

    Raises UsageError for inputs, axes and sizes that the model does not have, Unsupported for free sizes that
    nothing fixes.
    """
    from ....sources.loading.tensorflow import DEFAULT_SEQUENCE, fixed_shape

    for name in wanted.shapes:
        if name not in model.input_names:
            raise UsageError(
                "there is no such input",
                where=f"--shapes: {name}",
                mend=f"Inputs: {', '.join(model.input_names)}",
            )
    sequence = int(job.options.get("sequence") or DEFAULT_SEQUENCE)
    sampled = _sampled(job)
    found: dict[str, Sizes] = {}
    for name, own, dtype in zip(model.input_names, model.shapes, model.dtypes, strict=True):
        if name in wanted.shapes:
            _match(name, own, wanted.shapes[name])
            found[name] = wanted.shapes[name]
        elif name in sampled and len(sampled[name]) == len(own):
            found[name] = (tuple(size or given for size, given in zip(own, sampled[name], strict=True)),)
        else:
            try:
                found[name] = (tuple(fixed_shape(name, own, dtype, sequence)),)
            except Unsupported as error:
                raise Unsupported(
                    error.fact,
                    where=error.where,
                    mend="Give sizes with --shapes, or samples of that size with --calibration",
                ) from None
    return found


def _sampled(job: Job) -> Mapping[str, tuple[int, ...]]:
    """Shape of one calibration sample by input, batch 1 included, or {}."""
    folder = Path(job.samples or "") / "calibration"
    if not job.samples or not (folder / "set.json").is_file():
        return {}
    samples = SampleSet.open(folder)
    return {name: (1, *samples.array(name).shape[1:]) for name in samples.inputs}


def _match(name: str, own: Sequence[int | None], shapes: Sizes) -> None:
    where = f"--shapes: {name}"
    for shape in shapes:
        if len(shape) != len(own):
            raise UsageError(f"the input has {len(own)} axes, not {len(shape)}", where=where)
        for axis, (size, asked) in enumerate(zip(own, shape, strict=True)):
            if size is not None and asked != size:
                raise UsageError(f"axis {axis} of the model is {size}, and cannot be otherwise", where=where)


@dataclass(frozen=True)
class Boundary:
    """What the package takes and gives, around a TensorFlow graph."""

    inputs: tuple[str, ...]
    """Names in the package, by which `outputs` are too; the probabilities that labels add are not among these."""
    outputs: tuple[str, ...]
    probabilities: tuple[str, ...]
    """Name of the output that labels add, or ()."""
    dtypes: tuple[str, ...]
    """The graph's own, by input; the package has float32 and int32."""
    sizes: tuple[Sizes, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    """By input, None where a size is free."""
    image: int | None
    affine: tuple[list[float], list[float]]
    """Scale and bias by channel of the image's pixels."""
    labels: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all the outputs."""
        return self.outputs + self.probabilities

    def specs(self) -> list[Any]:
        """TensorSpecs of the package's inputs."""
        import tensorflow as tf

        return [
            tf.TensorSpec(shape, _outer(dtype), name=name)
            for shape, dtype, name in zip(self.shapes, self.dtypes, self.inputs, strict=True)
        ]

    def entering(self, tensors: Sequence[Any]) -> list[Any]:
        """The package's inputs as the graph takes them: pixels scaled, other dtypes cast."""
        import tensorflow as tf

        given = list(tensors)
        if self.image is not None:
            # By channel and in the graph: Core ML's own image preprocessing was made for one scale.
            scale, bias = self.affine
            given[self.image] = given[self.image] * tf.constant(scale) + tf.constant(bias)
        return [
            tensor if tensor.dtype.name == dtype else tf.cast(tensor, dtype)
            for tensor, dtype in zip(given, self.dtypes, strict=True)
        ]

    def leaving(self, results: Sequence[Any]) -> list[Any]:
        """The graph's outputs as the package gives them, and the labels' probabilities."""
        import tensorflow as tf

        for name, each in zip(self.outputs, results, strict=True):
            if _outer(each.dtype.name) is None:
                raise Unsupported(
                    f"Core ML's arrays do not hold {each.dtype.name}",
                    where=f"output {name}",
                    mend="Leave this output out of the model",
                )
        given = [tf.cast(each, _outer(each.dtype.name)) for each in results]
        for name, each in zip(self.outputs, given, strict=True):
            if each.shape.rank in (0, None):
                raise Unsupported(
                    "Core ML's arrays have 1 to 5 axes, and this output has none"
                    if each.shape.rank == 0
                    else "the number of axes depends on the input",
                    where=f"output {name}",
                    mend="Leave this output out of the model",
                )
        if not self.labels:
            return given
        fitting = [each for each in given if each.dtype.is_floating and tuple(each.shape) == (1, self.labels)]
        if not fitting:
            shapes = ", ".join(str(tuple(each.shape)) for each in given)
            raise UsageError(
                f"{self.labels} labels do not match any output, of shape {shapes}",
                where="--labels",
                mend=f"Labels name the columns of an output of shape (1, {self.labels})",
            )
        return [*given, tf.nn.softmax(fitting[0])]

    def input_types(self, used: Collection[str]) -> list[Any]:
        """coremltools' descriptions of the inputs whose names are in `used`."""
        import coremltools as ct
        import numpy as np

        described: list[Any] = []
        for index, (name, sizes) in enumerate(zip(self.inputs, self.sizes, strict=True)):
            if name not in used:
                continue
            shape: Any = [_dimension(axis) for axis in sizes[0]]
            if len(sizes) > 1:
                shape = ct.EnumeratedShapes(shapes=[list(each) for each in sizes])
            if index == self.image:
                layout = ct.colorlayout.RGB if self.shapes[index][3] == 3 else ct.colorlayout.GRAYSCALE
                described.append(
                    ct.ImageType(name=name, shape=shape, color_layout=layout, channel_first=False)
                )
            else:
                dtype = np.float32 if _outer(self.dtypes[index]) == "float32" else np.int32
                described.append(ct.TensorType(name=name, shape=shape, dtype=dtype))
        return described

    def data(self, model: Any, wanted: Wanted) -> dict[str, Any]:
        """For the outcome; see `Convertible.data`."""
        found: dict[str, Any] = {
            "deployment_target": wanted.target,
            "compute_units": wanted.compute_units,
            "labels": self.labels,
        }
        if self.image is not None:
            found["image"] = {
                "source": model.input_names[self.image], "input": self.inputs[self.image],
                "scale": self.affine[0], "bias": self.affine[1],
            }  # fmt: skip
        return found


def described(model: Any, wanted: Wanted, sizes: Mapping[str, Sizes]) -> Boundary:
    """The boundary of a `TensorflowModel` under these options."""
    odd = [name for name, dtype in zip(model.input_names, model.dtypes, strict=True) if _outer(dtype) is None]
    if odd:
        raise Unsupported(
            "Core ML's arrays hold numbers, and this input does not",
            where=f"input {odd[0]}",
            mend="Save the model from the numbers on, without its text or table layers",
        )
    shapes = tuple(_common(sizes[name]) for name in model.input_names)
    for name, shape in zip(model.input_names, shapes, strict=True):
        if not 1 <= len(shape) <= boundary.MOST_AXES:
            raise Unsupported(
                f"the input has {len(shape)} axes, Core ML takes 1 to {boundary.MOST_AXES}",
                where=f"input {name}",
            )
    image = None if wanted.image is None else _image(model, shapes)
    taken = ("graph", LABEL, LABEL_PROBABILITIES)
    inputs = boundary.legal_names(model.input_names, taken=taken)
    names = boundary.legal_names(
        (*model.output_names, PROBABILITIES) if wanted.labels else model.output_names, taken=(*inputs, *taken)
    )
    affine: tuple[list[float], list[float]] = ([], [])
    if image is not None and wanted.image is not None:
        affine = boundary.per_channel(wanted.image, int(shapes[image][3] or 0))
    own = len(model.output_names)
    return Boundary(
        inputs, names[:own], names[own:], tuple(model.dtypes),
        tuple(sizes[name] for name in model.input_names), shapes, image, affine, len(wanted.labels),
    )  # fmt: skip


def _common(sizes: Sizes) -> tuple[int | None, ...]:
    """The shape that all have, None where they differ or range."""
    return tuple(
        axes[0] if all(axis == axes[0] for axis in axes) and isinstance(axes[0], int) else None
        for axes in zip(*sizes, strict=True)
    )


def _image(model: Any, shapes: Sequence[Sequence[int | None]]) -> int:
    fitting = [i for i, shape in enumerate(shapes) if len(shape) == 4 and shape[3] in (1, 3)]
    if len(fitting) != 1:
        raise UsageError(
            f"{len(fitting)} inputs have the shape of an image, (batch, height, width, 1 or 3)",
            where="--image-input",
            mend="Leave the option out, and give the package arrays",
        )
    return fitting[0]


def _outer(dtype: str) -> str | None:
    """The dtype of a package's array for one of TensorFlow's; None for text, complex numbers and resources."""
    if dtype.startswith(("float", "bfloat", "double", "half")):
        return "float32"
    return "int32" if dtype.startswith(("int", "uint", "bool")) else None


def _dimension(axis: Axis) -> Any:
    import coremltools as ct

    if isinstance(axis, int):
        return axis
    return ct.RangeDim(lower_bound=axis[0], upper_bound=axis[1], default=min(axis[1], max(axis[0], 1)))
