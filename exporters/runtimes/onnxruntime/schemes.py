"""The schemes by name: what each makes of the float graph."""

from __future__ import annotations

from pathlib import Path

import onnx

from ....targets.errors import Unsupported
from ...job import Job, Progress
from . import files, narrow, rewrite, static

SCHEMES = ("fp32", "fp16", "int8", "int8-dynamic", "int4-weight")
QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger",
     "MatMulNBits", "DynamicQuantizeLinear", "QGemm"}
)  # fmt: skip


def apply(job: Job, model: onnx.ModelProto, progress: Progress) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model in scheme `job.quant`, and sentences for the report."""
    if job.quant not in SCHEMES:
        raise Unsupported(
            f"there is no scheme {job.quant!r}", where="--quant", mend=f"Known are {', '.join(SCHEMES)}"
        )
    if job.quant == "fp32":
        return model, ()
    model = rewrite.settled(model)
    _refuse_narrow(model, job)
    progress(f"quantize to {job.quant}", 0, 1)
    if job.quant == "fp16":
        model, notes = model, _half(model)
    elif job.quant == "int8":
        model, notes = static.quantize(job, model, progress)
    elif job.quant == "int8-dynamic":
        model, notes = narrow.dynamic(model, Path(job.work), job.source_path)
    else:
        model, notes = narrow.int4(model, Path(job.work), job.source_path)
    progress(f"quantize to {job.quant}", 1, 1)
    return files.tidy(model), notes


def _refuse_narrow(model: onnx.ModelProto, job: Job) -> None:
    """Quantizing starts from float32: refuse graphs that are quantized already, or stored in another float."""
    done = sorted(QUANTIZED & {node.op_type for node in model.graph.node})
    if done:
        raise Unsupported(
            f"the model is quantized already: it has {', '.join(done)}",
            where=job.source_path,
            mend="Convert the float model that it was made from, or take --quant fp32 to keep it as it is",
        )
    other = {
        onnx.TensorProto.FLOAT16: "float16",
        onnx.TensorProto.BFLOAT16: "bfloat16",
        onnx.TensorProto.DOUBLE: "float64",
    }
    for tensor in model.graph.initializer:
        if job.quant != "fp16" and tensor.data_type in other and len(tensor.dims) > 1:
            raise Unsupported(
                f"the weight is {other[tensor.data_type]}, and {job.quant} is made from float32",
                where=f"{job.source_path}: initializer {tensor.name}",
                mend="Export the model in float32",
            )


def _half(model: onnx.ModelProto) -> tuple[str, ...]:
    beyond = rewrite.half_weights(model)
    notes = [
        "Weights are stored in float16 and cast to float32 when the file is loaded; all is computed in float32."
    ]
    if beyond:
        notes.append(f"Values beyond float16's 65504 stay in float32: {', '.join(beyond[:6])}.")
    return tuple(notes)
