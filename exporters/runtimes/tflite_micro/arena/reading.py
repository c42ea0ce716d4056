"""A .tflite file as TensorFlow Lite Micro reads it: tensors with their bytes, operators, constants inside the file."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from .....targets.errors import SourceUnreadable, Unsupported

OFFLINE = "OfflineMemoryAllocation"
"""Name of the metadata that holds offsets planned beforehand (tensorflow/lite/micro/docs/memory_management.md)."""

ONLINE = -1
"""In that metadata: left to the planner on the device."""

MAX_BYTES = 2**31 - 1
"""The planner's sizes and offsets are C ints."""

WIDTHS = {
    "FLOAT16": 2, "BFLOAT16": 2, "FLOAT32": 4, "FLOAT64": 8, "INT16": 2, "INT32": 4, "UINT32": 4, "UINT8": 1,
    "UINT16": 2, "INT8": 1, "INT64": 8, "UINT64": 8, "BOOL": 1, "RESOURCE": 4, "COMPLEX64": 8, "COMPLEX128": 16,
    "INT4": 1,
}  # fmt: skip
"""Bytes of an element in the arena (TfLiteTypeSizeOf in micro/memory_helpers.cc): four bits take a byte there."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph."""

    name: str
    shape: tuple[int, ...]
    """Empty for a scalar."""
    kind: str
    """As in "INT8"."""
    constant: bool
    """Its data are in the file, so that the arena holds none."""
    variable: bool
    scales: int
    """How many quantization scales the file gives it; 0 where it has none, or no zero point."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of its data, unpacked."""
        return self.elements * WIDTHS[self.kind]


@dataclass(frozen=True)
class Operator:
    """One operator; an input of -1 was left out."""

    kind: str
    """As in "CONV_2D"."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    calls: tuple[int, ...] = ()
    """Subgraphs that it runs, in the order in which their lifetimes are counted (IF, WHILE, CALL_ONCE)."""
    transposed: tuple[bool, bool] = (False, False)
    """BATCH_MATMUL's `adj_x` and `adj_y`."""


@dataclass(frozen=True)
class Subgraph:
    """Tensors, and the operators in the order in which they run."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What the memory planner needs of a file."""

    subgraphs: tuple[Subgraph, ...]
    offline: tuple[int, ...] | None
    """An offset or ONLINE for each tensor of each subgraph, where the file brings a plan of its own."""


def read(data: bytes | bytearray) -> Program:
    """Read a .tflite file.

    Raises SourceUnreadable where it is none, or its indices and sizes are not possible; Unsupported for buffers
    outside the FlatBuffer (TensorFlow Lite Micro would take such weights for activations, without an error) and
    for shapes that are only known while running.
    """
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise SourceUnreadable("this is no .tflite file: the identifier TFL3 is missing")
    try:
        model = schema.Model.GetRootAs(data, 0)
        _require_inside(model)
        codes = _kinds(model, schema)
        types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
        subgraphs = tuple(
            _subgraph(model, model.Subgraphs(index), codes, types) for index in range(model.SubgraphsLength())
        )
        offline = _offline(model)
    except (struct.error, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise SourceUnreadable(f"the .tflite file is damaged: {error}") from error
    if not subgraphs:
        raise SourceUnreadable("the .tflite file has no subgraph")
    _check(subgraphs, offline)
    return Program(subgraphs, offline)


def _require_inside(model: Any) -> None:
    outside = [
        i for i in range(model.BuffersLength()) if model.Buffers(i).Offset() or model.Buffers(i).Size()
    ]
    if outside:
        raise Unsupported(
            f"{len(outside)} of {model.BuffersLength()} buffers lie outside the FlatBuffer",
            where=f"buffers[{outside[0]}].offset",
            mend="Write every buffer inside: TensorFlow Lite Micro computes garbage from such a file",
        )


def _kinds(model: Any, schema: Any) -> list[str]:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    kinds = [names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes]
    return [
        f"CUSTOM {(code.CustomCode() or b'').decode()}" if kind == "CUSTOM" else kind
        for kind, code in zip(kinds, codes, strict=True)
    ]


def _subgraph(model: Any, graph: Any, codes: list[str], types: dict[int, str]) -> Subgraph:
    return Subgraph(
        tensors=tuple(_tensor(model, graph.Tensors(i), types) for i in range(graph.TensorsLength())),
        operators=tuple(_operator(graph.Operators(i), codes) for i in range(graph.OperatorsLength())),
        inputs=tuple(int(graph.Inputs(i)) for i in range(graph.InputsLength())),
        outputs=tuple(int(graph.Outputs(i)) for i in range(graph.OutputsLength())),
    )


def _tensor(model: Any, tensor: Any, types: dict[int, str]) -> Tensor:
    buffer = int(tensor.Buffer())
    if buffer >= model.BuffersLength():
        raise SourceUnreadable(f"tensor {_name(tensor)!r} has buffer {buffer} of {model.BuffersLength()}")
    quantization = tensor.Quantization()
    quantized = quantization is not None and quantization.ZeroPointLength() > 0
    return Tensor(
        name=_name(tensor),
        shape=tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength())),
        kind=types[tensor.Type()],
        constant=model.Buffers(buffer).DataLength() > 0,
        variable=bool(tensor.IsVariable()),
        scales=int(quantization.ScaleLength()) if quantized else 0,
    )


def _name(tensor: Any) -> str:
    return (tensor.Name() or b"").decode("utf-8", "replace")


def _operator(op: Any, codes: list[str]) -> Operator:
    kind = codes[op.OpcodeIndex()]
    return Operator(
        kind=kind,
        inputs=tuple(int(op.Inputs(i)) for i in range(op.InputsLength())),
        outputs=tuple(int(op.Outputs(i)) for i in range(op.OutputsLength())),
        calls=_calls(op, kind),
        transposed=_transposed(op, kind),
    )


def _options(op: Any, name: str) -> Any | None:
    from ai_edge_litert import schema_py_generated as schema

    table = op.BuiltinOptions()
    if table is None:
        return None
    options = getattr(schema, name)()
    options.Init(table.Bytes, table.Pos)
    return options


def _calls(op: Any, kind: str) -> tuple[int, ...]:
    if kind == "IF" and (options := _options(op, "IfOptions")) is not None:
        return (int(options.ThenSubgraphIndex()), int(options.ElseSubgraphIndex()))
    if kind == "WHILE" and (options := _options(op, "WhileOptions")) is not None:
        return (int(options.CondSubgraphIndex()), int(options.BodySubgraphIndex()))
    if kind == "CALL_ONCE" and (options := _options(op, "CallOnceOptions")) is not None:
        return (int(options.InitSubgraphIndex()),)
    return ()


def _transposed(op: Any, kind: str) -> tuple[bool, bool]:
    options = _options(op, "BatchMatMulOptions") if kind == "BATCH_MATMUL" else None
    return (bool(options.AdjX()), bool(options.AdjY())) if options is not None else (False, False)


def _offline(model: Any) -> tuple[int, ...] | None:
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if (entry.Name() or b"").decode("utf-8", "replace") == OFFLINE:
            buffer = model.Buffers(entry.Buffer())
            raw = bytes(buffer.Data(i) for i in range(buffer.DataLength()))
            count = struct.unpack_from("<3i", raw)[2]
            if count < 0 or len(raw) != 12 + 4 * count:
                raise SourceUnreadable(
                    f"{count} offsets in {len(raw)} bytes", where=f"metadata {OFFLINE}", mend="Write it anew"
                )
            return struct.unpack_from(f"<{count}i", raw, 12)
    return None


def _check(subgraphs: tuple[Subgraph, ...], offline: tuple[int, ...] | None) -> None:
    """Indices within their lists, sizes that a C int holds, and offsets for every tensor."""
    for number, graph in enumerate(subgraphs):
        for index, tensor in enumerate(graph.tensors):
            where = f"subgraphs[{number}].tensors[{index}] {tensor.name!r}"
            if tensor.kind not in WIDTHS:
                raise Unsupported(f"TensorFlow Lite Micro has no {tensor.kind} tensors", where=where)
            if any(size < 0 for size in tensor.shape):
                raise Unsupported(
                    f"its shape {list(tensor.shape)} is only known while running",
                    where=where,
                    mend="Convert with fixed shapes: the arena is planned before the first run",
                )
            if tensor.bytes > MAX_BYTES:
                raise SourceUnreadable(f"it takes {tensor.bytes:,} bytes; sizes end at 2 GiB", where=where)
        given = [t for op in graph.operators for t in (*op.inputs, *op.outputs)] + [
            *graph.inputs,
            *graph.outputs,
        ]
        wrong = [t for t in given if not -1 <= t < len(graph.tensors)]
        if wrong:
            raise SourceUnreadable(
                f"an operator names tensor {wrong[0]} of {len(graph.tensors)}", where=f"subgraphs[{number}]"
            )
        for op in graph.operators:
            if any(not 0 <= call < len(subgraphs) for call in op.calls):
                raise SourceUnreadable(
                    f"{op.kind} calls a subgraph that is not there", where=f"subgraphs[{number}]"
                )
    tensors = sum(len(graph.tensors) for graph in subgraphs)
    if offline is not None and len(offline) != tensors:
        raise SourceUnreadable(f"{len(offline)} offsets for {tensors} tensors", where=f"metadata {OFFLINE}")
