"""What each operator's kernel keeps and borrows: TensorFlow Lite Micro's reference kernels, one rule a kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .....targets.errors import SourceUnreadable, Unsupported
from .greedy import align
from .reading import Operator, Tensor
from .structures import Structures


@dataclass(frozen=True)
class Memory:
    """What one operator takes beside its tensors."""

    persistent: tuple[int, ...] = ()
    """Bytes of each buffer that stays for the model's life, each aligned to 16 in the tail."""
    scratch: tuple[int, ...] = ()
    """Bytes of each buffer that lives while the operator runs, planned into the head."""
    at_start: int = 0
    """How many of `persistent` exist before any operator prepares (allocated by Init)."""


@dataclass(frozen=True)
class Call:
    """One operator with its tensors, None for an input that was left out."""

    operator: Operator
    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    sizes: Structures = field(repr=False)

    def input(self, index: int) -> Tensor:
        """The input at `index`; raises Unsupported where the file left it out."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise Unsupported(f"{self.operator.kind} has no input {index}", where="model.tflite")
        return found

    def output(self) -> Tensor:
        """The first output; raises Unsupported where there is none."""
        if not self.outputs:
            raise Unsupported(f"{self.operator.kind} has no output", where="model.tflite")
        return self.outputs[0]


def memory(call: Call) -> Memory:
    """What the kernel of an operator allocates; raises Unsupported for one whose kernel is not counted, and
    SourceUnreadable where its tensors have too few axes.

    Read from each kernel's Init and Prepare in micro/kernels/ of the version that `structures.toml` names.
    """
    data = call.sizes.data(call.operator.kind)
    rule = RULES.get(call.operator.kind)
    try:
        more = rule(call) if rule is not None else Memory()
    except IndexError as error:
        shapes = [list(tensor.shape) for tensor in call.inputs if tensor is not None]
        raise SourceUnreadable(
            f"{call.operator.kind} takes no inputs of {shapes}", where="model.tflite"
        ) from error
    own = (data,) if data else ()
    return Memory(own + more.persistent, more.scratch, len(own))


def _per_channel(channels: int) -> tuple[int, int]:
    """A multiplier and a shift for each output channel, int32."""
    return (4 * channels, 4 * channels)


def _convolution(axis: int) -> Callable[[Call], Memory]:
    def rule(call: Call) -> Memory:
        weights = call.input(1)
        # The kernels compute with 8 bits: weights of 4 are unpacked into a scratch buffer.
        unpacked = (weights.elements,) if weights.kind == "INT4" else ()
        return Memory(_per_channel(weights.shape[axis]), unpacked)

    return rule


def _transpose_convolution(call: Call) -> Memory:
    kind, out = call.input(2).kind, call.output()
    width = {"INT8": 4, "INT16": 8}.get(kind)
    scratch: tuple[int, ...] = (width * out.elements,) if width else ()
    bias = call.inputs[3] if len(call.inputs) > 3 else None
    if kind == "INT16" and bias is not None and bias.kind == "INT16":
        scratch += (8 * bias.elements,)
    return Memory(_per_channel(call.input(1).shape[0]), scratch)


def _fully_connected(call: Call) -> Memory:
    weights = call.input(1)
    unpacked = (weights.elements,) if weights.kind == "INT4" else ()
    integer = call.input(0).kind != "FLOAT32"
    return Memory(_per_channel(weights.scales) if integer and weights.scales > 1 else (), unpacked)


def _batch_matmul(call: Call) -> Memory:
    """A transposed copy of each operand that does not lie as the kernel reads it stays in the tail."""
    left, right = call.input(0), call.input(1)
    kept: list[int] = []
    if left.kind in ("INT8", "INT16"):
        kept.append(call.sizes.size("QuantizationOpDataBatchMatmul"))
    swapped_left, straight_right = call.operator.transposed
    for operand, copied in ((left, swapped_left), (right, not straight_right)):
        if copied:
            kept += [call.sizes.size("TfLiteEvalTensor"), 4 + 4 * len(operand.shape), operand.bytes]
    return Memory((*kept, *_dimensions(call).persistent))


def _dimensions(call: Call) -> Memory:
    """The output's shape, moved out of the file so that Prepare can write it."""
    return Memory((4 + 4 * len(call.output().shape),))


def _mean_or_sum(call: Call) -> Memory:
    sums = (4 * call.output().elements,) if call.input(0).kind in ("INT8", "INT16") else ()
    return Memory((), (*sums, *_axes(call).scratch))


def _axes(call: Call) -> Memory:
    return Memory((), (4 * len(call.input(0).shape), 4 * call.input(1).elements))


def _softmax(call: Call) -> Memory:
    # Two tables for int16: LUTSize<int16_t>() = 513 values each.
    return Memory((2 * 513,) * 2 if call.input(0).kind == "INT16" else ())


def _svdf(call: Call) -> Memory:
    batch, filters, units = call.input(0).shape[0], call.input(1).shape[0], call.output().shape[1]
    outputs = (4 * batch * units,) if call.input(0).kind == "INT8" else ()
    return Memory((), (4 * batch * filters, *outputs))


def _lstm(call: Call) -> Memory:
    state, cell = call.input(18), call.input(19)
    width = cell.bytes // max(1, cell.elements)
    return Memory((), (state.shape[0] * state.shape[1] * width,) * 4)


def _add_n(call: Call) -> Memory:
    return Memory((), (call.sizes.pointer * len(call.inputs),))


def _mirror_pad(call: Call) -> Memory:
    return Memory((), (4 * len(call.input(0).shape),) * 2)


RULES: dict[str, Callable[[Call], Memory]] = {
    "ADD_N": _add_n,
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _convolution(0),
    "DEPTHWISE_CONV_2D": _convolution(3),
    "DEPTH_TO_SPACE": _dimensions,
    "EMBEDDING_LOOKUP": _dimensions,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _dimensions,
    "GATHER_ND": _dimensions,
    "L2_POOL_2D": _dimensions,
    "MEAN": _mean_or_sum,
    "MIRROR_PAD": _mirror_pad,
    "REDUCE_ALL": _axes,
    "REDUCE_MAX": _axes,
    "REDUCE_MIN": _axes,
    "SOFTMAX": _softmax,
    "SPACE_TO_DEPTH": _dimensions,
    "SUM": _mean_or_sum,
    "SVDF": _svdf,
    "TRANSPOSE_CONV": _transpose_convolution,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}
"""By kind of operator; one that is not listed takes its own structure at the most."""


def quantization(tensor: Tensor, sizes: Structures) -> tuple[int, ...]:
    """Bytes of what TfLiteTensor keeps beside itself for a quantized tensor: a structure, and int32 zero points."""
    if not tensor.scales:
        return ()
    return (sizes.size("TfLiteAffineQuantization"), 4 + 4 * tensor.scales)


FETCHED_ONCE = frozenset(
    {"ADD", "AVERAGE_POOL_2D", "FULLY_CONNECTED", "LOGISTIC", "MAX_POOL_2D", "MUL", "SOFTMAX"}
)
"""Kinds whose Prepare fetches each tensor once; others fetch them anew in a function that Prepare calls."""

BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "TRANSPOSE_CONV": 3}
"""The input that only that function fetches."""


def temporary(call: Call) -> int:
    """An upper bound for what Prepare borrows from the arena: the structures of each tensor that it fetches.

    Nothing is given back before Prepare's end, whatever it releases.
    """
    kind = call.operator.kind
    twice = 1 if kind in FETCHED_ONCE else 2
    inputs = sum(
        (1 if index == BIAS.get(kind) else twice) * _fetched(tensor, call.sizes)
        for index, tensor in enumerate(call.inputs)
        if tensor is not None
    )
    return inputs + sum(twice * _fetched(tensor, call.sizes) for tensor in call.outputs)


def _fetched(tensor: Tensor, sizes: Structures) -> int:
    return sum(align(size, 8) for size in (sizes.size("TfLiteTensor"), *quantization(tensor, sizes)))
