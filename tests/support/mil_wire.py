"""ML program packages written byte by byte, without coremltools: good, damaged and hostile ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from wire import field, number, varint

DTYPES = {
    "bool": 1,
    "string": 2,
    "fp16": 10,
    "fp32": 11,
    "int8": 21,
    "int32": 23,
    "int4": 25,
    "uint8": 31,
    "uint3": 39,
}
BLOBS = {"fp16": 1, "fp32": 2, "uint8": 3, "int8": 4, "int4": 8, "uint3": 12, "int32": 14}


def tensor_type(dtype: str, shape: Sequence[int | None]) -> bytes:
    """A ValueType message."""
    sizes = b"".join(field(3, field(2, b"") if size is None else field(1, number(1, size))) for size in shape)
    return field(1, number(1, DTYPES[dtype]) + number(2, len(shape)) + sizes)


def named(name: str, dtype: str, shape: Sequence[int | None]) -> bytes:
    """A NamedValueType message."""
    return field(1, name) + field(2, tensor_type(dtype, shape))


def text(value: str) -> bytes:
    """A Value message of a string."""
    return field(2, tensor_type("string", ())) + field(3, field(1, field(4, field(1, value))))


def floats(values: Sequence[float], shape: Sequence[int]) -> bytes:
    """A Value message of float32."""
    packed = struct.pack(f"<{len(values)}f", *values)
    return field(2, tensor_type("fp32", shape)) + field(3, field(1, field(1, field(1, packed))))


def ints(values: Sequence[int], shape: Sequence[int]) -> bytes:
    """A Value message of int32."""
    packed = b"".join(varint(value) for value in values)
    return field(2, tensor_type("int32", shape)) + field(3, field(1, field(2, field(1, packed))))


def raw(data: bytes, dtype: str, shape: Sequence[int]) -> bytes:
    """A Value message of a dtype that is written as bytes (fp16, int8, int4, ...)."""
    return field(2, tensor_type(dtype, shape)) + field(3, field(1, field(7, field(1, data))))


def stored(
    dtype: str, shape: Sequence[int], offset: int, file: str = "@model_path/weights/weight.bin"
) -> bytes:
    """A Value message in the weight file."""
    return field(2, tensor_type(dtype, shape)) + field(5, field(1, file) + number(2, offset))


def entry(key: str, value: bytes) -> bytes:
    """An entry of a map."""
    return field(1, key) + field(2, value)


def operation(
    kind: str,
    output: bytes | None,
    inputs: Mapping[str, str | bytes | Sequence[str]] | None = None,
    attributes: Mapping[str, bytes] | None = None,
    name: str = "",
) -> bytes:
    """An Operation message; an input is a value's name, several names, or a Value message."""
    message = field(1, kind)
    for key, given in (inputs or {}).items():
        several = [given] if isinstance(given, str | bytes) else given
        bindings = [field(1, one) if isinstance(one, str) else field(2, one) for one in several]
        message += field(2, entry(key, b"".join(field(1, binding) for binding in bindings)))
    if output is not None:
        message += field(3, output)
    for key, value in {**({"name": text(name)} if name else {}), **(attributes or {})}.items():
        message += field(5, entry(key, value))
    return message


def constant(name: str, dtype: str, shape: Sequence[int], value: bytes) -> bytes:
    """A `const` operation."""
    return operation("const", named(name, dtype, shape), attributes={"val": value}, name=name)


def program(
    inputs: Sequence[bytes], operations: Sequence[bytes], outputs: Sequence[str], name: str = "main"
) -> bytes:
    """A Program message with one function for iOS17; two of them joined are a program of two functions."""
    block = b"".join(field(2, output) for output in outputs) + b"".join(field(3, part) for part in operations)
    function = b"".join(field(1, given) for given in inputs) + field(2, "CoreML7")
    function += field(3, entry("CoreML7", block))
    return number(1, 1) + field(2, entry(name, function))


def array_feature(name: str, shape: Sequence[int]) -> bytes:
    """A FeatureDescription of a float32 array."""
    return field(1, name) + field(3, field(5, b"".join(number(1, n) for n in shape) + number(2, 65568)))


def model(
    body: bytes, inputs: Sequence[bytes] = (), outputs: Sequence[bytes] = (), default: str = ""
) -> bytes:
    """A Model message with the Program `body`; `default` names the function that runs by default."""
    description = b"".join(field(1, one) for one in inputs) + b"".join(field(10, one) for one in outputs)
    if default:
        description += field(21, default)
    return number(1, 8) + field(2, description) + field(502, body)


def weights(blobs: Sequence[tuple[str, bytes]]) -> tuple[bytes, list[int]]:
    """A weight file of (dtype, data) blobs, and the offsets of their records."""
    data, offsets = struct.pack("<II", len(blobs), 2).ljust(64, b"\0"), []
    for dtype, content in blobs:
        offsets.append(len(data))
        data += struct.pack("<IIQQ", 0xDEADBEEF, BLOBS[dtype], len(content), len(data) + 64).ljust(64, b"\0")
        data += content.ljust(-(-len(content) // 64) * 64, b"\0")
    return data, offsets


def write(
    folder: Path, message: bytes, weight_file: bytes = b"", root: str = "com.apple.CoreML/model.mlmodel"
) -> Path:
    """The package `folder`; `root` is what the manifest names as its model."""
    inner = folder / "Data" / "com.apple.CoreML"
    (inner / "weights").mkdir(parents=True, exist_ok=True)
    (inner / "model.mlmodel").write_bytes(message)
    if weight_file:
        (inner / "weights" / "weight.bin").write_bytes(weight_file)
    items = {"A": {"author": "com.apple.CoreML", "name": "model.mlmodel", "path": root}}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": "A"}
    (folder / "Manifest.json").write_text(json.dumps(manifest))
    return folder
