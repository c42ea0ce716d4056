"""The ONNX standard's own cases of its operators, and what the importer makes of each: what test and bar share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from modelport.sources.loading import onnx_program
from modelport.sources.loading.onnx_program.dtypes import to_torch
from modelport.sources.loading.onnx_program.nested import NESTED
from modelport.sources.loading.onnx_program.operators import OPERATORS
from modelport.targets.errors import Unsupported

Array = np.ndarray[Any, Any]

RTOL, BF16_RTOL, ATOL = 1e-3, 2**-6, 1e-7
"""What onnx's own runner of these cases allows."""


LACKING: dict[str, list[str]] = {
    "NumPy's sums of float16 round more often than torch's": [
        "test_attention_4d_causal_fp16", "test_attention_4d_causal_fp16_expanded",
    ],
    "random": [
        "test_bernoulli", "test_bernoulli_expanded", "test_bernoulli_double",
        "test_bernoulli_double_expanded", "test_bernoulli_seed", "test_bernoulli_seed_expanded",
        "test_training_dropout_default", "test_training_dropout_default_mask", "test_training_dropout",
        "test_training_dropout_mask",
    ],
    "2- and 4-bit types whose values depend on the inputs are held in 8 bits, and their type is not known": [
        "test_castlike_FLOAT_to_UINT4", "test_castlike_FLOAT16_to_UINT4", "test_castlike_FLOAT_to_INT4",
        "test_castlike_FLOAT16_to_INT4", "test_castlike_FLOAT_to_FLOAT4E2M1",
        "test_castlike_FLOAT16_to_FLOAT4E2M1", "test_castlike_FLOAT_to_UINT2",
        "test_castlike_FLOAT16_to_UINT2", "test_castlike_FLOAT_to_INT2", "test_castlike_FLOAT16_to_INT2",
        "test_quantizelinear_int4", "test_quantizelinear_uint2", "test_quantizelinear_int2",
    ],
    "forms that are refused": [
        "test_col2im_5d", "test_melweightmatrix", "test_roialign_mode_max", "test_scan_sum",
    ],
    "files of images, counts of words": [
        "test_image_decoder_decode_jpeg_rgb", "test_image_decoder_decode_jpeg_grayscale",
        "test_image_decoder_decode_jpeg_bgr", "test_image_decoder_decode_jpeg2k_rgb",
        "test_image_decoder_decode_bmp_rgb", "test_image_decoder_decode_png_rgb",
        "test_image_decoder_decode_tiff_rgb", "test_image_decoder_decode_webp_rgb",
        "test_image_decoder_decode_pnm_rgb", "test_tfidfvectorizer_tf_only_bigrams_skip0",
        "test_tfidfvectorizer_tf_batch_onlybigrams_skip0", "test_tfidfvectorizer_tf_onlybigrams_levelempty",
        "test_tfidfvectorizer_tf_onlybigrams_skip5", "test_tfidfvectorizer_tf_batch_onlybigrams_skip5",
        "test_tfidfvectorizer_tf_uniandbigrams_skip5", "test_tfidfvectorizer_tf_batch_uniandbigrams_skip5",
    ],
    "the size of the result depends on the values": [
        "test_nonmaxsuppression_suppress_by_IOU", "test_nonmaxsuppression_suppress_by_IOU_and_scores",
        "test_nonmaxsuppression_flipped_coordinates", "test_nonmaxsuppression_limit_output_size",
        "test_nonmaxsuppression_single_box", "test_nonmaxsuppression_identical_boxes",
        "test_nonmaxsuppression_center_point_box_format", "test_nonmaxsuppression_two_classes",
        "test_nonmaxsuppression_two_batches", "test_nonmaxsuppression_iou_threshold_boundary",
        "test_nonzero_example", "test_unique_sorted_without_axis", "test_unique_not_sorted_without_axis",
        "test_unique_sorted_with_axis", "test_unique_sorted_with_axis_3d",
        "test_unique_sorted_with_negative_axis", "test_unique_length_1",
        "test_unique_bfloat16_sorted_without_axis",
    ],
    "the order of equal values, which torch.topk leaves open; uint64": [
        "test_top_k_uint64", "test_top_k_same_values", "test_top_k_same_values_largest",
        "test_top_k_same_values_2d",
    ],
}  # fmt: skip
"""Cases that do not pass, by why. This list may only shrink."""

FAMILIAR = frozenset({
    "Abs", "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat",
    "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "CumSum", "DepthToSpace", "Div", "Equal",
    "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "Greater", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LayerNormalization", "LeakyRelu", "Less", "Log", "MatMul", "Max", "MaxPool", "Min", "Mish", "Mul",
    "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "Range", "ReduceL2", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Slice", "Softmax",
    "Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Swish", "Tanh", "Tile", "Transpose",
    "Unsqueeze", "Upsample", "Where",
})  # fmt: skip
"""Operators of MobileNetV2, ResNet, EfficientNet, ViT, BERT, MiniLM, YOLO- and U-Net-like graphs."""


EXACT = 1e-5
"""Of the largest value: what an import may add, where a value beside it is nearly zero."""


@dataclass(frozen=True)
class Case:
    """One case of the standard: a model of numeric tensors, what goes in and what shall come out."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]

    @property
    def operator(self) -> str:
        """The operator that the case is about; one that is written out in others names its nodes after it."""
        nodes = self.model.graph.node
        named = (node.output[0].split("_test_")[0] for node in nodes if "_test_" in node.output[0])
        return str(next(named, nodes[0].op_type))


def cases() -> Iterator[Case]:
    """Every node case of the domain ai.onnx whose inputs and outputs are tensors of floats, integers or bools."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        if {entry.domain for entry in case.model.opset_import} != {""}:
            continue
        inputs, outputs = (_arrays(side) for side in case.data_sets[0])
        if inputs is not None and outputs is not None:
            yield Case(case.name, case.model, inputs, outputs)


def _arrays(values: Sequence[Any]) -> tuple[Array, ...] | None:
    """The values where all are numbers; None where one is a text, a sequence or nothing at all."""
    found = []
    for value in values:
        if isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        if value is None or isinstance(value, list) or np.asarray(value).dtype.kind in "OUS":
            return None
        found.append(np.asarray(value))
    return tuple(found)


def run(case: Case, bound: Callable[[int, Array], bool], *, export: bool) -> list[torch.Tensor]:
    """The program's results; inputs that are `bound` are stored in the file, as exporters store sizes and axes."""
    model, live = onnx.ModelProto(), []
    model.CopyFrom(case.model)
    given = list(model.graph.input)
    for index, (value, array) in enumerate(zip(given, case.inputs, strict=False)):
        if bound(index, array):
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
            continue
        live.append(to_torch(array))
        value.type.tensor_type.shape.ClearField("dim")
        for size in array.shape:
            value.type.tensor_type.shape.dim.add().dim_value = size
    operators = {node.op_type for node in model.graph.node}
    if not live and not operators & (OPERATORS.keys() | NESTED.keys()):
        # onnx's reference would compute it beforehand, and prove nothing.
        raise Unsupported(f"{', '.join(sorted(operators))} is not covered")
    module: Any = onnx_program.build(model, Path("case.onnx"), 8).module
    if export and live:
        module = torch.export.export(module, tuple(live), strict=False).module()
    return list(module(*live))


BINDINGS: tuple[Callable[[int, Array], bool], ...] = (
    lambda index, array: False,
    lambda index, array: bool(index) and array.ndim <= 1,
    lambda index, array: array.ndim <= 1,
)
"""Which inputs are stored: none, then, where a program needs to know them, vectors and scalars."""


def check(case: Case, *, export: bool = True) -> str:
    """Empty where the case passes, else the reason why not."""
    refusal = ""
    for bound in BINDINGS:
        try:
            given = run(case, bound, export=export)
        except Unsupported as error:
            refusal = refusal or str(error)
            continue
        except Exception as error:  # whatever goes wrong is a case that fails
            return f"{type(error).__name__}: {error}"
        return _difference(case.outputs, given)
    return refusal


def _difference(wanted: Sequence[Array], given: Sequence[torch.Tensor]) -> str:
    for number, (array, tensor) in enumerate(zip(wanted, given, strict=True)):
        expected = to_torch(array)
        if (expected.shape, expected.dtype) != (tensor.shape, tensor.dtype):
            return (
                f"output {number} is {tensor.dtype} {list(tensor.shape)}, "
                f"not {expected.dtype} {list(expected.shape)}"
            )
        got, right = _wide(tensor), _wide(expected)
        close_to_all = np.allclose(got, right, rtol=_rtol(expected), atol=ATOL, equal_nan=True)
        if not close_to_all and not np.abs(got - right).max() <= EXACT * np.abs(right).max():
            return f"output {number} differs by up to {np.abs(got - right).max():.2g}"
    return ""


def _rtol(expected: torch.Tensor) -> float:
    return BF16_RTOL if expected.dtype == torch.bfloat16 else RTOL


def _wide(tensor: torch.Tensor) -> Array:
    wide: Array = (tensor if tensor.dtype == torch.uint64 else tensor.detach().to(torch.float64)).numpy()
    return wide
