"""Static int8: quantize and dequantize around weights and activations, with ranges from calibration data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from ....targets.errors import Unsupported
from ...job import Job, Progress
from ...onnx import graph
from ...onnx.ranges import Ranges, calibration_samples, float_values, observe
from ...onnx.shapes import prepared, quiet
from ...onnx.source import upgraded
from . import choose, rewrite


def quantize(job: Job, model: onnx.ModelProto, progress: Progress) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model in Q/DQ form, uint8 activations and int8 weights per channel: the fast pair on x86.

    Convolutional graphs are quantized whole. In graphs that normalise or attend (`graph.mixes`) products
    are quantized, their results are not: on MiniLM the cosine is 0.990 so, and 0.83 when all is quantized.
    """
    choose.require_reach(model, "int8")
    samples = calibration_samples(
        job, "Give a .npz, a folder of images or a text file, or take --quant int8-dynamic"
    )
    mixed = graph.mixes(model)
    kinds = choose.PRODUCTS if mixed else choose.WHOLE
    prefers_dynamic = mixed and choose.reach(model, choose.REACHED["int8-dynamic"])[0] >= 0.9
    work = Path(job.work)
    model = prepared(upgraded(model, 13, job.source_path), work)
    graph.name_nodes(model)
    nodes = [node for node in model.graph.node if node.op_type in kinds]
    if not nodes:
        raise Unsupported(
            "the model has no operator that int8 is computed in",
            where=job.source_path,
            mend=f"Static int8 covers {', '.join(choose.PRODUCTS)}; fp32 and fp16 take every model",
        )
    observer = str(job.options.get("observer") or "minmax")
    ranges = observe(model, float_values(model, nodes), samples, observer, work, progress)
    # The quantizer leaves a Relu out where quantizing clips as it does: such a result must stay quantized.
    products = {name for node in nodes if node.op_type in ("MatMul", "Gemm") for name in node.output}
    quantized = _insert(model, nodes, ranges, keep_results=mixed)
    _free_outputs(quantized, products)
    tables = rewrite.int8_tables(quantized)
    return quantized, tuple(_notes(mixed, prefers_dynamic, tables, observer, samples.count))


def _insert(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], ranges: Ranges, *, keep_results: bool
) -> onnx.ModelProto:
    """The model with Q/DQ pairs by ONNX Runtime's quantizer."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    given = TensorsData(
        CalibrationMethod.MinMax,
        {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in ranges.items()
        },
    )
    # Without a result in 8 bits a convolution is not fused to integers; products are (to float results).
    excluded = ["MatMul", "Gemm"] if keep_results else []
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=given,
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in nodes}),
        extra_options={"OpTypesToExcludeOutputQuantization": excluded},
    )
    with quiet():
        quantizer.quantize_model()
    return quantizer.model.model


def _free_outputs(model: onnx.ModelProto, products: set[str]) -> None:
    """Give out the results that were products' own in float: a pair of Q and DQ there only costs precision."""
    makers = {name: node for node in model.graph.node for name in node.output}
    reads = graph.readers(model)
    gone: set[str] = set()
    for output in model.graph.output:
        widen = makers.get(output.name) if output.name in products else None
        narrow = (
            makers.get(widen.input[0]) if widen is not None and widen.op_type == "DequantizeLinear" else None
        )
        made = (
            makers.get(narrow.input[0]) if narrow is not None and narrow.op_type == "QuantizeLinear" else None
        )
        if narrow is None or widen is None or made is None or made.op_type not in ("MatMul", "Gemm"):
            continue
        if len(reads[narrow.output[0]]) > 1 or len(reads[made.output[0]]) > 1:
            continue
        gone |= {narrow.output[0], made.output[0]}
        widen.output[0], made.output[0] = f"{output.name}_dropped", output.name
        gone.add(widen.output[0])
    graph.replace_nodes(model, [node for node in model.graph.node if node.output[0] not in gone])
    graph.drop_unread(model)


def _notes(mixed: bool, prefers_dynamic: bool, tables: int, observer: str, count: int) -> list[str]:
    notes = [f"Activation ranges by {observer} over {count} samples."]
    if mixed:
        notes.append(
            "The graph normalises or attends, so products are computed in int8 and what lies between in float."
        )
    if tables:
        notes.append(f"{tables} look-up tables are int8 with one scale a column.")
    if prefers_dynamic:
        notes.append(
            "int8-dynamic is the better choice for this model: it reaches the same weights, its activation "
            "ranges follow each input instead of covering the outliers of all, and it needs no calibration."
        )
    return notes
