"""ONNX models on disk and in a session: deterministic bytes, and weights outside the file above 2 GB."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

LARGEST_FILE = 2_000_000_000
"""Bytes of one protobuf message; the format's limit is 2 GiB with everything else in it."""
SMALLEST_OUTSIDE = 1024
"""Bytes from which a tensor of a large model is written outside."""


def io_names(model: onnx.ModelProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs that a caller feeds, and of the outputs, in order."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(value.name for value in model.graph.input if value.name not in stored)
    return inputs, tuple(value.name for value in model.graph.output)


def nbytes(model: onnx.ModelProto) -> int:
    """Bytes of all initializers of the main graph."""
    return sum(len(tensor.raw_data) or tensor.ByteSize() for tensor in model.graph.initializer)


def save(model: onnx.ModelProto, folder: str | Path, name: str) -> tuple[str, ...]:
    """Write the model under `name` into `folder`; the names of the files written, the model first."""
    path = Path(folder) / name
    if nbytes(model) <= LARGEST_FILE:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return (name,)
    data = f"{name}.data"
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        location=data,
        size_threshold=SMALLEST_OUTSIDE,
        all_tensors_to_one_file=True,
    )
    onnx.load_external_data_for_model(model, str(folder))
    return name, data


def session(model: onnx.ModelProto, work: str | Path) -> onnxruntime.InferenceSession:
    """The model in ONNX Runtime's CPU provider on all cores; `work` takes what is too large for memory."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    given: Any = model.SerializeToString() if nbytes(model) <= LARGEST_FILE else None
    if given is None:
        given = str(Path(work) / save(model, work, "session.onnx")[0])
    return onnxruntime.InferenceSession(given, settings, providers=["CPUExecutionProvider"])


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the model in one fixed form, in place: nodes in order, tensors and values by name, no remarks.

    Exporters leave stack traces with this machine's paths in the remarks, and quantizers leave nodes out of
    order and tensors in the order of a hash table.
    """
    order = list(_in_order(model.graph))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for part in graphs(model.graph):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
        for item in (*part.node, *part.initializer, *part.value_info, *part.input, *part.output):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
        part.value_info.sort(key=lambda value: value.name)
        part.initializer.sort(key=lambda tensor: tensor.name)
    for function in model.functions:
        function.ClearField("doc_string")
        function.ClearField("metadata_props")
        for node in function.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
    model.opset_import.sort(key=lambda entry: entry.domain)
    return model


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all subgraphs in its nodes' attributes, outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs(inner)


def reads(node: onnx.NodeProto) -> set[str]:
    """Names that the node reads, those that its subgraphs take from outside included."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for part in graphs(inner):
                names.update(name for deeper in part.node for name in deeper.input)
                names.update(value.name for value in part.output)
    return names


def _in_order(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes, each after those whose results it reads, otherwise in the order that they have."""
    nodes = list(graph.node)
    maker = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    readers: list[list[int]] = [[] for _ in nodes]
    waiting = []
    for at, node in enumerate(nodes):
        needed = {maker[name] for name in reads(node) if name in maker}
        waiting.append(len(needed))
        for other in needed:
            readers[other].append(at)
    ready = [at for at, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    while ready:
        at = heapq.heappop(ready)
        yield nodes[at]
        for reader in readers[at]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
