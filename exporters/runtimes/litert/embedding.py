"""Embedding tables as EMBEDDING_LOOKUP: TensorFlow's converter writes GATHER, whose tables no scheme can shrink."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...litert.flatbuffer import Graph, Op


def use_lookups(model: Any) -> int:
    """Replace each GATHER of rows of a constant float table; returns how many there were.

    before:  ids (…) ─────────────────────────────────────────── GATHER(table) ─ rows (…, width)
    after:   ids (…) ─ RESHAPE (count) ─ EMBEDDING_LOOKUP(table) ─ RESHAPE ───── rows (…, width)

    Both pick row `ids[i]` of the table; EMBEDDING_LOOKUP alone has kernels for int8 and int4 tables with a
    scale per row, and takes ids of one axis.
    """
    graph = Graph(model)
    found = [op for op in graph.ops if _picks_rows(graph, op)]
    for op in reversed(found):  # from the back, so that indices of those before stay good
        _replace(model, graph, op)
    return len(found)


def _picks_rows(graph: Graph, op: Op) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    if op.kind != "GATHER":
        return False
    table, ids = op.inputs[:2]
    options = graph.subgraph.operators[op.index].builtinOptions
    return (
        graph.is_constant(table)
        and graph.is_float(table)
        and len(graph.shape(table)) == 2
        and not graph.is_constant(ids)
        and graph.subgraph.tensors[ids].type == schema.TensorType.INT32
        and (options is None or (options.axis == 0 and options.batchDims == 0))
    )


def _replace(model: Any, graph: Graph, op: Op) -> None:
    from ai_edge_litert import schema_py_generated as schema

    table, ids = op.inputs[:2]
    count, width = math.prod(graph.shape(ids)), graph.shape(table)[1]
    name = graph.name(op.outputs[0])
    flat = _tensor(model, f"{name};ids", (count,), schema.TensorType.INT32)
    rows = _tensor(model, f"{name};rows", (count, width), schema.TensorType.FLOAT32)
    lookup = schema.OperatorT()
    lookup.opcodeIndex = _code(model, "EMBEDDING_LOOKUP")
    lookup.inputs, lookup.outputs = [flat, table], [rows]
    graph.subgraph.operators[op.index : op.index + 1] = [
        _reshape(model, ids, flat, (count,)),
        lookup,
        _reshape(model, rows, op.outputs[0], graph.shape(op.outputs[0])),
    ]


def _reshape(model: Any, source: int, target: int, shape: Sequence[int]) -> Any:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.array(shape, "<i4").view(np.uint8)
    model.buffers.append(buffer)
    name = f"{model.subgraphs[0].tensors[target].name.decode()};shape"
    sizes = _tensor(model, name, (len(shape),), schema.TensorType.INT32, len(model.buffers) - 1)
    made = schema.OperatorT()
    made.opcodeIndex = _code(model, "RESHAPE")
    made.inputs, made.outputs = [source, sizes], [target]
    made.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    made.builtinOptions = schema.ReshapeOptionsT()
    made.builtinOptions.newShape = list(shape)
    return made


def _tensor(model: Any, name: str, shape: Sequence[int], kind: int, buffer: int = 0) -> int:
    """Index of a new tensor of the main subgraph; buffer 0 is the empty one."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name.encode(), list(shape), kind, buffer
    model.subgraphs[0].tensors.append(made)
    return len(model.subgraphs[0].tensors) - 1


def _code(model: Any, kind: str) -> int:
    """Index of an operator code, added when the model has none yet."""
    from ai_edge_litert import schema_py_generated as schema

    wanted = getattr(schema.BuiltinOperator, kind)
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == wanted:
            return index
    made = schema.OperatorCodeT()
    made.builtinCode = made.deprecatedBuiltinCode = wanted
    made.version = 3 if kind == "EMBEDDING_LOOKUP" else 1  # 3 has per-row scales and int4 tables
    model.operatorCodes.append(made)
    return len(model.operatorCodes) - 1
