"""The float ONNX graph that every scheme starts from: by torch.onnx, by tf2onnx, or an ONNX file as it is."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnx import version_converter

from ...sources.loading import tensorflow_onnx
from ...sources.loading.onnx_model import refuse_non_finite
from ...targets.errors import ConversionFailed, SourceUnreadable, Unsupported
from ..job import Job
from . import files

if TYPE_CHECKING:
    from ...sources.loading.torch_model import TorchModel

OPSET = 21


def float_model(job: Job) -> tuple[onnx.ModelProto, str]:
    """The float graph with all weights in memory, and one sentence about the way it came."""
    path = Path(job.source_path)
    if job.source_kind == "onnx":
        model = onnx.load(str(path), load_external_data=False)
        refuse_non_finite(model, path)
        onnx.load_external_data_for_model(model, str(path.parent))
        version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        return model, f"The ONNX graph was taken as it is (opset {version})."
    if job.source_kind in tensorflow_onnx.KINDS:
        model, notes = tensorflow_onnx.load(job.source_kind, path, job.options)
        model = upgraded(model, int(job.options.get("opset") or tensorflow_onnx.OPSET), str(path))
        route = f"tf2onnx, opset {model.opset_import[0].version}; {_free_axes(model)}."
        return model, ". ".join((*notes, route))
    from ...sources.loading import torch_model

    opset = int(job.options.get("opset") or OPSET)
    loaded = torch_model.load(job.source_kind, path, job.options)
    model = files.tidy(_to_onnx(loaded, opset, path))
    return model, f"torch.onnx.export, opset {opset}; {_free_axes(model)}."


def _to_onnx(loaded: TorchModel, opset: int, path: Path) -> onnx.ModelProto:
    import torch

    from ...sources.loading.torch_model import two

    shapes = tuple(dict(loaded.dynamic.get(name, {})) for name in loaded.input_names)
    example = tuple(two(tensor, axes) for tensor, axes in zip(loaded.example, shapes, strict=True))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                loaded.module,
                example,
                dynamo=True,
                opset_version=opset,
                input_names=list(loaded.input_names),
                output_names=list(loaded.output_names),
                dynamic_shapes=(shapes,) if any(shapes) else None,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise _explained(error, opset, path) from error
    if program is None:
        raise ConversionFailed("torch.onnx.export gave no program", where=str(path))
    proto: onnx.ModelProto = program.model_proto
    return proto


def _explained(error: Exception, opset: int, path: Path) -> Exception:
    """Unsupported with the operators' names where that is the cause, ConversionFailed otherwise."""
    text = " ".join(f"{link} {link.__cause__ or ''}" for link in (error, error.__cause__) if link)
    missing = sorted(
        set(re.findall(r"(?:No ONNX function found for|Unsupported.*?)\s*<OpOverload\(op='([^']+)'", text))
    )
    if missing:
        return Unsupported(
            f"no ONNX form at opset {opset} for {', '.join(missing)}",
            where=str(path),
            mend="Replace these operators in the model, or ask for another opset",
        )
    return ConversionFailed(f"torch.onnx.export: {str(error).strip().splitlines()[0]}", where=str(path))


def _free_axes(model: onnx.ModelProto) -> str:
    free = {
        dim.dim_param
        for value in model.graph.input
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    }
    return f"free axes: {', '.join(sorted(free))}" if free else "all shapes fixed"


def upgraded(model: onnx.ModelProto, least: int, path: str) -> onnx.ModelProto:
    """The model at opset `least` or later; quantizing it needs operators of that version."""
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), least)
    if version >= least:
        return model
    try:
        return version_converter.convert_version(model, max(OPSET, least))
    except Exception as error:  # the converter raises errors of its own C++ classes
        raise SourceUnreadable(
            f"onnx cannot raise opset {version} to {max(OPSET, least)}: {error}",
            where=f"{path}: opset_import",
            mend=f"Export it again with opset {least} or later",
        ) from error
