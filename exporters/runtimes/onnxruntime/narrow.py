"""Schemes that need no calibration data: dynamic int8, and int4 weights in blocks."""

from __future__ import annotations

from pathlib import Path

import onnx

from ...onnx import files, graph
from ...onnx.shapes import prepared, quiet
from ...onnx.source import upgraded
from . import choose, rewrite

BLOCK = 32
"""Weights that share a scale and a zero point in int4."""
INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy level that lets the kernel quantize activations to int8 block by block.

On MiniLM twice as fast as level 0, at the same fidelity (cosine 0.9748 and 0.9749).
"""


def dynamic(model: onnx.ModelProto, work: Path, path: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """int8 weights per output channel in products with a constant, activations quantized as they come.

    Convolutions are computed in float, with int8 filters: ONNX Runtime's ConvInteger is slower than its float
    convolution (MobileNetV2: 14.7 against 7.3 ms). A model that is mostly convolutions is refused.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    choose.require_reach(model, "int8-dynamic")
    model = prepared(upgraded(model, 13, path), work)
    rewrite.gemm_as_matmul(model)
    tables = rewrite.int8_tables(model)
    filters = rewrite.int8_filters(model)
    left = choose.reach(model, ("MatMul",))[1]
    target = work / "dynamic.onnx"
    with quiet():
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=files.nbytes(model) > files.LARGEST_FILE,
            extra_options={"MatMulConstBOnly": True},
        )
    notes = []
    if tables:
        notes.append(f"{tables} look-up tables are int8 with one scale a column.")
    notes += _also(filters, left)
    return onnx.load(str(target)), tuple(notes)


def int4(model: onnx.ModelProto, work: Path, path: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Weights of matrix products (MatMulNBits) and look-up tables (GatherBlockQuantized) in 4-bit blocks."""
    with quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )

    choose.require_reach(model, "int4-weight")
    model = prepared(upgraded(model, 21, path), work)
    rewrite.gemm_as_matmul(model)
    graph.name_nodes(model)
    filters = rewrite.int8_filters(model)
    left = choose.reach(model, ("MatMul", "Gather"))[1]
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        accuracy_level=INT8_ACTIVATIONS,
        op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer = MatMulNBitsQuantizer(model, algo_config=config, nodes_to_exclude=_not_for_int4(model))
    with quiet():
        quantizer.process()
    notes = [
        f"Blocks of {BLOCK} weights share a scale; products quantize their activations to int8 by block."
    ]
    return quantizer.model.model, (*notes, *_also(filters, left))


def _also(filters: int, left: tuple[str, ...]) -> list[str]:
    notes = []
    if filters:
        notes.append(f"The filters of {filters} convolutions are stored in int8 and computed with in float.")
    if left:
        notes.append(f"Left in float: the weights of {', '.join(left)}.")
    return notes


def _not_for_int4(model: onnx.ModelProto) -> list[str]:
    """Names of Gathers that the quantizer must not touch: those that do not look rows of a table up."""
    weights = graph.float_weights(model)
    reads = graph.readers(model)
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Gather"
        and (
            node.input[0] not in weights
            or len(weights[node.input[0]].dims) != 2
            or not graph.is_table(reads[node.input[0]])
        )
    ]
