"""Any source as one float32 .tflite model: litert_torch for PyTorch, tf.lite.TFLiteConverter for TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...calibration.samples import SampleSet
from ...sources.loading import tensorflow as tensorflow_model
from ...sources.loading import torch_model
from ...targets.errors import ConversionFailed, ModelportError, Unsupported, UsageError
from ..job import Job, Port
from . import flatbuffer

if TYPE_CHECKING:
    import torch

LAYOUTS = ("nchw", "nhwc")

TORCH_SOURCES = {
    "torch-exported": "the exported program", "huggingface": "the module that transformers loads",
    "onnx": "the operators of the ONNX file",
}  # fmt: skip
"""Kinds that become a torch module first, and what a note calls it."""

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""Axis orders from the other layout, as `numpy.transpose` takes them."""

TO = {"nhwc": TO_NHWC, "nchw": TO_NCHW}


@dataclass(frozen=True)
class FloatModel:
    """A converted model before quantization."""

    model: Any
    """ModelT, with the source's names in its one signature."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    notes: tuple[str, ...]


def convert(job: Job) -> FloatModel:
    """Convert the job's source once, with batch 1 and `options["sequence"]` (128) tokens.

    `options["layout"]` ("nchw", "nhwc" or None) is the layout of images at the artifact's boundary; None
    keeps the source's own. Raises what the loaders raise, Unsupported for an operator that LiteRT lacks and
    ConversionFailed where a converter breaks.
    """
    layout = job.options.get("layout")
    if layout not in (None, *LAYOUTS):
        raise UsageError(f"there is no layout {layout!r}", where="--layout", mend="Known are nchw and nhwc")
    path = Path(job.source_path)
    if job.source_kind in TORCH_SOURCES:
        return _from_torch(job.source_kind, path, job.options, sample_shapes(job))
    if job.source_kind in ("saved-model", "keras"):
        return _from_tensorflow(job.source_kind, path, job.options, sample_shapes(job))
    raise Unsupported(f"a source of kind {job.source_kind!r} cannot become a .tflite file", where=str(path))


Shapes = Mapping[str, tuple[int, ...]]


def sample_shapes(job: Job) -> Shapes:
    """Shape of one sample by input, batch 1 included, or {}: LiteRT fixes every size, and these are the user's."""
    folder = Path(job.samples or "") / "calibration"
    if not job.samples or not (folder / "set.json").is_file():
        return {}
    samples = SampleSet.open(folder)
    return {name: (1, *samples.array(name).shape[1:]) for name in samples.inputs}


def _as_samples(source: torch_model.TorchModel, shapes: Shapes) -> torch_model.TorchModel:
    """The model with an example of the samples' sizes along its free axes."""
    example = tuple(
        tensor.new_ones(shapes[name]) if source.dynamic.get(name) and name in shapes else tensor
        for name, tensor in zip(source.input_names, source.example, strict=True)
    )
    return replace(source, example=example)


def _from_torch(kind: str, path: Path, options: Mapping[str, Any], sizes: Shapes) -> FloatModel:
    source = _as_samples(torch_model.load(kind, path, {**options, "sizes": sizes}), sizes)
    own, images = _layout(kind, source.example)
    other = "nhwc" if own == "nchw" else "nchw"
    module, example = source.module, source.example
    moved_in: tuple[int, ...] = ()
    moved_out: tuple[int, ...] = ()
    if options.get("layout") == other:
        module, example, moved_in, moved_out = _relaid(source, images, other)
    data = _litert_torch(module, example)
    model = flatbuffer.read(data)
    flatbuffer.name_signature(model, source.input_names, source.output_names)
    flatbuffer.make_names_unique(model)
    wide = [
        n for n, t in zip(source.input_names, source.example, strict=True) if str(t.dtype) == "torch.int64"
    ]
    notes = [
        f"Converted with litert_torch from {TORCH_SOURCES[kind]}; every size is fixed: "
        f"{_shapes(source.input_names, [tuple(t.shape) for t in example])}"
    ]
    if wide:
        notes.append(f"int64 inputs are int32 in the artifact: {', '.join(wide)}")
    notes += _layout_notes(options, [source.input_names[i] for i in images], own, bool(moved_in))
    return FloatModel(
        model,
        _ports(source.input_names, moved_in, TO[other]),
        _ports(source.output_names, moved_out, TO[other]),
        tuple(notes),
    )


def is_image(shape: Sequence[int | None], channel_axis: int) -> bool:
    """Whether a rank 4 shape has fewer channels on `channel_axis` than anything spatial on the other end."""
    if len(shape) != 4:
        return False
    channels, other = shape[channel_axis], shape[3 if channel_axis == 1 else 1]
    return channels is not None and (other is None or channels <= 4 or channels < other)


def _layout(kind: str, example: Sequence[torch.Tensor]) -> tuple[str, list[int]]:
    """The layout of image inputs, and which they are: NCHW but in ONNX files that come from TensorFlow."""
    floats = [(i, t.shape) for i, t in enumerate(example) if t.is_floating_point()]
    first = [i for i, shape in floats if is_image(shape, 1)]
    last = [i for i, shape in floats if is_image(shape, 3) and shape[3] <= 4]
    return ("nhwc", last) if kind == "onnx" and last and not first else ("nchw", first)


def _relaid(
    source: torch_model.TorchModel, images: list[int], layout: str
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], tuple[int, ...], tuple[int, ...]]:
    """The module behind images in `layout`, its example, and which inputs and outputs were moved."""
    import torch

    outward, inward = TO[layout], TO["nchw" if layout == "nhwc" else "nhwc"]
    with torch.inference_mode():
        results = source.module(*source.example)
    maps = tuple(i for i, r in enumerate(results) if r.is_floating_point() and r.dim() == 4) if images else ()

    class Relaid(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = source.module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            inside = [t.permute(inward) if i in images else t for i, t in enumerate(tensors)]
            made = self.inner(*inside)
            return tuple(r.permute(outward) if i in maps else r for i, r in enumerate(made))

    example = tuple(
        tensor.permute(outward).contiguous() if index in images else tensor
        for index, tensor in enumerate(source.example)
    )
    module = Relaid()
    module.training = False  # eval() would walk into an exported program, which does not know it
    return module, example, tuple(images), maps


def _litert_torch(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> bytes:
    import litert_torch

    try:
        return bytes(litert_torch.convert(module, example).model_content())
    except ModelportError:
        raise
    except Exception as error:  # torch.export, the lowerings and MLIR raise whatever they met
        raise _failure("litert_torch", error, ", or choose target server-cpu") from error


LACKING = re.compile(
    r"lowering not found: (\S+)|'(tf\.\w+)' op is neither|failed to legalize operation '([^']+)'|"
    r"(unsupported [\w ]+: \S+)",
    re.IGNORECASE,
)
"""How litert_torch and tf.lite name an operator that they cannot convert."""


def _failure(tool: str, error: Exception, otherwise: str = "") -> ModelportError:
    """A converter's error in one sentence: operators that it lacks are Unsupported, the rest a failure."""
    missing = sorted({name for found in LACKING.findall(str(error)) for name in found if name})
    if missing:
        return Unsupported(
            f"{tool} has no LiteRT form of {', '.join(missing)}",
            mend=f"Rewrite that part of the model{otherwise}",
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ConversionFailed(f"{tool} failed: {type(error).__name__}: {(lines or [''])[0][:400]}")


def _from_tensorflow(kind: str, path: Path, options: Mapping[str, Any], sizes: Shapes) -> FloatModel:
    import tensorflow as tf

    source = tensorflow_model.load(kind, path, options)
    given = zip(source.input_names, source.shapes, strict=True)
    source = replace(source, shapes=tuple(sizes.get(name, shape) for name, shape in given))
    sequence = int(options.get("sequence") or tensorflow_model.DEFAULT_SEQUENCE)
    images = [
        index
        for index, (shape, dtype) in enumerate(zip(source.shapes, source.dtypes, strict=True))
        if dtype.startswith("float") and is_image(shape, 3)
    ]
    moved = tuple(images) if options.get("layout") == "nchw" else ()
    maps: list[int] = []

    def channels_first(call: Any, shapes: list[list[int]]) -> tuple[Any, list[list[int]]]:
        outside = [[s[axis] for axis in TO_NCHW] if i in moved else s for i, s in enumerate(shapes)]

        def wrapped(*tensors: Any) -> list[Any]:
            inside = [tf.transpose(t, TO_NHWC) if i in moved else t for i, t in enumerate(tensors)]
            results = list(call(*inside))
            maps[:] = [i for i, r in enumerate(results) if r.dtype.is_floating and r.shape.rank == 4]
            return [tf.transpose(r, TO_NCHW) if i in maps else r for i, r in enumerate(results)]

        return wrapped, outside

    try:
        function = source.concrete(sequence, channels_first if moved else None)
        data = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    except ModelportError:
        raise
    except Exception as error:  # the converter raises its log as one exception
        raise _failure("tf.lite.TFLiteConverter", error) from error
    model = flatbuffer.read(data)
    flatbuffer.name_signature(model, source.input_names, source.output_names)
    flatbuffer.make_names_unique(model)
    shapes = [tuple(spec.shape) for spec in function.inputs[: len(source.input_names)]]
    notes = [
        "Converted with tf.lite.TFLiteConverter from "
        + ("the Keras model" if kind == "keras" else "the SavedModel's signature")
        + f"; every size is fixed: {_shapes(source.input_names, shapes)}",
        *source.notes,
        *_layout_notes(options, [source.input_names[i] for i in images], "nhwc", bool(moved)),
    ]
    return FloatModel(
        model,
        _ports(source.input_names, moved, TO_NCHW),
        _ports(source.output_names, tuple(maps), TO_NCHW),
        tuple(notes),
    )


def _ports(names: Sequence[str], moved: Sequence[int], order: tuple[int, ...]) -> tuple[Port, ...]:
    return tuple(Port(name, name, order if index in moved else ()) for index, name in enumerate(names))


def _shapes(names: Sequence[str], shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in zip(names, shapes, strict=True))


def _layout_notes(options: Mapping[str, Any], images: Sequence[str], own: str, moved: bool) -> list[str]:
    layout = options.get("layout")
    if layout is None and not images:
        return []
    if not images:
        return [f"--layout {layout} changes nothing: the model has no image input"]
    named = ", ".join(images)
    if moved:
        return [
            f"Image inputs are {str(layout).upper()} in the artifact and {own.upper()} in the source: {named}"
        ]
    return [f"Image inputs keep the source's layout, {own.upper()}: {named}"]
