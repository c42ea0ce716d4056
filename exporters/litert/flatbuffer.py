"""The .tflite file as an object: read it, look along its graph, name its signature, write every byte inside."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...targets.errors import ConversionFailed, Unsupported

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 2**31 - 1
"""A FlatBuffer's offsets are 31 bits (flatbuffers.dev, "Internals")."""

ALIGNMENT = 16
"""Of every buffer's data: `force_align: 16` in tensorflow/compiler/mlir/lite/schema/schema.fbs."""

SIGNATURE = "serving_default"


def read(data: bytes | bytearray) -> Any:
    """The ModelT of a file's bytes; buffers that lie outside the FlatBuffer proper are resolved.

    Array data are views of `data`, which must stay unchanged.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    if data[4:8] != b"TFL3":
        raise ConversionFailed("the converter's result is no .tflite file", where="model.tflite")
    return flatbuffer_utils.read_model_from_bytearray(bytearray(data))


def write(model: Any) -> bytes:
    """The file's bytes, with each buffer inside the FlatBuffer and aligned to 16 bytes.

    The quantizer and the converter put larger weights behind the FlatBuffer (`Buffer.offset` and `size`).
    Runtimes from before that form read such a tensor as an empty one and compute garbage without an error.
    The generated Python code packs buffers at an alignment of 1, so they are packed here.
    Raises Unsupported for a model of 2 GiB or more, which only that outside form could hold.
    """
    import flatbuffers

    total = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    if total > MAX_BYTES - 2**20:
        raise Unsupported(
            f"the weights take {total:,} bytes and a .tflite file holds at most 2 GiB",
            where="model.tflite",
            mend="Choose a scheme with smaller weights: int8, int8-dynamic or int8-weight",
        )
    plain = model.buffers
    model.buffers = [_aligned(buffer) for buffer in plain]
    builder = flatbuffers.Builder(total + 2**16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    model.buffers = plain
    return bytes(builder.Output())


def _aligned(buffer: Any) -> Any:
    """`buffer` as an object whose Pack keeps the schema's alignment."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    class Aligned:
        def Pack(self, builder: Any) -> int:
            if buffer.data is None:
                schema.BufferStart(builder)
                return int(schema.BufferEnd(builder))
            data = np.asarray(buffer.data, np.uint8)
            builder.StartVector(1, len(data), ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return int(schema.BufferEnd(builder))

    return Aligned()


@dataclass(frozen=True)
class Op:
    """One operator with its tensors' indices; -1 in `inputs` is an input that was left out."""

    index: int
    kind: str
    """As in "CONV_2D"."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Graph:
    """The main subgraph of a ModelT, to look along: names, constants, producers and consumers."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.subgraph = model.subgraphs[0]

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """Operators in the order of execution."""
        kinds = operator_kinds(self.model)
        return tuple(
            Op(index, kinds[op.opcodeIndex], indices(op.inputs), indices(op.outputs))
            for index, op in enumerate(self.subgraph.operators)
        )

    @property
    def inputs(self) -> tuple[int, ...]:
        """Tensor indices of the graph's inputs."""
        return indices(self.subgraph.inputs)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Tensor indices of the graph's outputs."""
        return indices(self.subgraph.outputs)

    def name(self, tensor: int) -> str:
        """A tensor's name."""
        return str(self.subgraph.tensors[tensor].name.decode())

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape."""
        shape = self.subgraph.tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def is_float(self, tensor: int) -> bool:
        """Whether a tensor holds float32."""
        from ai_edge_litert import schema_py_generated as schema

        return bool(self.subgraph.tensors[tensor].type == schema.TensorType.FLOAT32)

    def is_constant(self, tensor: int) -> bool:
        """Whether a tensor's data are in the file."""
        return self.model.buffers[self.subgraph.tensors[tensor].buffer].data is not None

    def values(self, tensor: int) -> np.ndarray[Any, Any]:
        """The data of a float32 constant, in its shape."""
        import numpy as np

        data = np.asarray(self.model.buffers[self.subgraph.tensors[tensor].buffer].data, np.uint8)
        return np.frombuffer(data.tobytes(), np.float32).reshape(self.shape(tensor))

    def is_feature_map(self, tensor: int) -> bool:
        """Whether a tensor goes in or out of a convolution or pooling, where one row is one pixel."""
        around = [
            *self.consumers.get(tensor, []),
            *([self.producer[tensor]] if tensor in self.producer else []),
        ]
        return any("_2D" in op.kind or op.kind == "TRANSPOSE_CONV" for op in around)

    def activations(self, tensors: Iterable[int]) -> tuple[int, ...]:
        """Those that are float32 and computed, not constant."""
        return tuple(t for t in tensors if t >= 0 and self.is_float(t) and not self.is_constant(t))

    def weights(self, op: Op) -> tuple[int, ...]:
        """The float32 constants of rank 1 or more that an operator reads."""
        return tuple(
            t for t in op.inputs if t >= 0 and self.is_float(t) and self.is_constant(t) and self.shape(t)
        )

    @cached_property
    def producer(self) -> dict[int, Op]:
        """The operator that computes a tensor."""
        return {tensor: op for op in self.ops for tensor in op.outputs}

    @cached_property
    def consumers(self) -> dict[int, list[Op]]:
        """The operators that read a tensor."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for tensor in op.inputs:
                found.setdefault(tensor, []).append(op)
        return found


def operator_kinds(model: Any) -> list[str]:
    """Name of each operator code, as in "CONV_2D"."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    # Files from before 2020 hold the code in the deprecated field alone.
    return [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]


def counted(ops: Iterable[Op]) -> str:
    """Operators by kind, as in "2 CONV_2D, 1 PAD"."""
    counts = collections.Counter(op.kind for op in ops)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def indices(values: Sequence[int] | None) -> tuple[int, ...]:
    """A vector of tensor indices as the generated code gives it, None for an empty one."""
    return () if values is None else tuple(int(value) for value in values)


def weight_elements(model: Any, wanted: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Elements of weights that have one of the `wanted` types, and those in float32 by their reader's kind.

    A weight is a constant of rank 2 or more; a DEQUANTIZE between it and its reader changes nothing.
    """
    from ai_edge_litert import schema_py_generated as schema

    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    kinds = operator_kinds(model)
    reached, left = 0, collections.Counter[str]()
    for subgraph in model.subgraphs:
        counted: set[int] = set()
        for op in subgraph.operators:
            for index in indices(op.inputs):
                tensor = subgraph.tensors[index]
                shape = indices(tensor.shape)
                if (
                    index < 0
                    or index in counted
                    or len(shape) < 2
                    or model.buffers[tensor.buffer].data is None
                ):
                    continue
                counted.add(index)
                if types[tensor.type] in wanted:
                    reached += math.prod(shape)
                elif types[tensor.type] == "FLOAT32":
                    left[kinds[op.opcodeIndex]] += math.prod(shape)
    return reached, dict(left.most_common())


def name_signature(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the main subgraph one signature with these names, in the order of its own inputs and outputs."""
    from ai_edge_litert import schema_py_generated as schema

    graph = Graph(model)
    # litert_torch keeps the order of the arguments in its signature, and may not in the subgraph.
    given = list(model.signatureDefs or [])
    ordered_inputs, ordered_outputs = graph.inputs, graph.outputs
    if len(given) == 1:
        ordered_inputs = tuple(_in_order(given[0].inputs, "args_"))
        ordered_outputs = tuple(_in_order(given[0].outputs, "output_"))
    if len(ordered_inputs) != len(inputs) or len(ordered_outputs) != len(outputs):
        raise ConversionFailed(
            f"the converter gave {len(ordered_inputs)} inputs and {len(ordered_outputs)} outputs, "
            f"the source has {len(inputs)} and {len(outputs)}",
            where="model.tflite",
            mend="Remove inputs that nothing reads from the source model",
        )
    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE.encode()
    signature.subgraphIndex = 0
    signature.inputs = [_entry(name, t) for name, t in zip(inputs, ordered_inputs, strict=True)]
    signature.outputs = [_entry(name, t) for name, t in zip(outputs, ordered_outputs, strict=True)]
    model.signatureDefs = [signature]


def _in_order(entries: Iterable[Any], prefix: str) -> Iterator[int]:
    numbered = sorted((int(entry.name.decode().removeprefix(prefix)), entry.tensorIndex) for entry in entries)
    return (int(tensor) for _, tensor in numbered)


def _entry(name: str, tensor: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    entry = schema.TensorMapT()
    entry.name = name.encode()
    entry.tensorIndex = tensor
    return entry


def make_names_unique(model: Any) -> None:
    """Give every tensor a name of its own: the quantizer keeps its ranges and rules by name."""
    taken: set[bytes] = set()
    for subgraph in model.subgraphs:
        for index, tensor in enumerate(subgraph.tensors):
            base = tensor.name or b"tensor"
            if base in taken or not tensor.name:
                tensor.name = b"%s;%d" % (base, index)
                while tensor.name in taken:
                    tensor.name += b"_"
            taken.add(tensor.name)
