"""Takes out of a model what a board would carry for nothing: metadata, names, unused and repeated buffers."""

from __future__ import annotations

from typing import Any

from ...litert.flatbuffer import indices


def strip(model: Any) -> None:
    """Drop metadata, unused tensors, buffers and operator codes; share equal constants.

    before:  two weights of the same bytes, a calibration range a tensor, the converter's version
    after:   one buffer, which both read; no range, no version

    TensorFlow Lite Micro keeps a structure for every tensor of the file in its arena, used or not, so that
    this saves RAM too. The signature stays: it binds the source's names to inputs and outputs.
    """
    model.metadata, model.metadataBuffer, model.description = None, None, None
    _share_buffers(model)
    for subgraph in model.subgraphs:
        subgraph.name = None
        _share_tensors(model, subgraph)
    _drop_codes(model)
    _drop_buffers(model)


def drop_names(model: Any) -> None:
    """Drop the names of all tensors but those of the main graph's inputs and outputs: the runtime reads none."""
    for number, subgraph in enumerate(model.subgraphs):
        kept = {*indices(subgraph.inputs), *indices(subgraph.outputs)} if number == 0 else set()
        for index, tensor in enumerate(subgraph.tensors):
            if index not in kept:
                tensor.name = None


def _share_buffers(model: Any) -> None:
    """Point every tensor at the first buffer with its bytes, and what has none at buffer 0, the empty one."""
    import numpy as np

    first: dict[bytes, int] = {}
    same = {}
    for index, buffer in enumerate(model.buffers):
        if buffer.data is None or len(buffer.data) == 0:
            same[index] = 0
        else:
            same[index] = first.setdefault(np.asarray(buffer.data, np.uint8).tobytes(), index)
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = same[tensor.buffer]


def _share_tensors(model: Any, subgraph: Any) -> None:
    """Keep one tensor of several equal constants, and none that nothing reads or writes."""
    ops = subgraph.operators
    used = {*indices(subgraph.inputs), *indices(subgraph.outputs)}
    for op in ops:
        op.intermediates = None
        used |= {t for t in (*indices(op.inputs), *indices(op.outputs)) if t >= 0}
    new: dict[int, int] = {-1: -1}
    kept: list[Any] = []
    first: dict[tuple[Any, ...], int] = {}
    for index, tensor in enumerate(subgraph.tensors):
        if index not in used:
            continue
        tensor.shapeSignature = None
        if tensor.quantization is not None:
            tensor.quantization.min = tensor.quantization.max = None
        constant = bool(tensor.buffer) and not tensor.isVariable
        number = first.setdefault(_identity(tensor), len(kept)) if constant else len(kept)
        new[index] = number
        if number == len(kept):
            kept.append(tensor)
    subgraph.tensors = kept
    subgraph.inputs = [new[t] for t in indices(subgraph.inputs)]
    subgraph.outputs = [new[t] for t in indices(subgraph.outputs)]
    for op in ops:
        op.inputs = [new[t] for t in indices(op.inputs)]
        op.outputs = [new[t] for t in indices(op.outputs)]
    if subgraph is model.subgraphs[0]:
        for signature in model.signatureDefs or ():
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = new[entry.tensorIndex]


def _identity(tensor: Any) -> tuple[Any, ...]:
    """What must be equal for one constant to stand for another."""
    found = tensor.quantization

    def values(array: Any) -> tuple[Any, ...]:
        return () if array is None else tuple(array)

    scales = (
        None if found is None else (values(found.scale), values(found.zeroPoint), found.quantizedDimension)
    )
    return (tensor.buffer, tensor.type, values(tensor.shape), scales)


def _drop_codes(model: Any) -> None:
    """One operator code a kind and version, in the order of first use."""
    new: dict[tuple[Any, ...], int] = {}
    codes: list[Any] = []
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            key = (max(code.builtinCode, code.deprecatedBuiltinCode), code.customCode, code.version)
            if key not in new:
                new[key] = len(codes)
                codes.append(code)
            op.opcodeIndex = new[key]
    model.operatorCodes = codes


def _drop_buffers(model: Any) -> None:
    """Keep buffer 0 and those that a tensor reads."""
    used = sorted({0} | {tensor.buffer for subgraph in model.subgraphs for tensor in subgraph.tensors})
    new = {old: index for index, old in enumerate(used)}
    model.buffers[0].data = None
    model.buffers = [model.buffers[old] for old in used]
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = new[tensor.buffer]
