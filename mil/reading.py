"""Reads the program out of a model's protobuf: functions, blocks, operations, arguments."""

from __future__ import annotations

from ..sources.files.protobuf import Message
from ..targets.errors import SourceUnreadable
from .blobs import Blobs
from .constants import read_type, read_value
from .program import Block, Constant, Function, NamedType, Operation, Program, Reference

MAX_BLOCK_DEPTH = 8
"""Blocks of conditions and loops nested deeper than this are refused."""


def read_program(message: Message, blobs: Blobs, default: str = "main") -> Program:
    """The message MILSpec.Program; `default` names the function that runs by default."""
    functions = {}
    for entry in message.messages(2, "functions"):
        name = entry.text(1)
        body = entry.message(2, name)
        if body is None:
            raise entry.error(f"the function {name} has no body")
        functions[name] = _function(body, name, blobs)
    if default not in functions:
        raise message.error(f"the function {default} is missing")
    return Program(functions, default)


def _function(message: Message, name: str, blobs: Blobs) -> Function:
    opset = message.text(2)
    blocks = {entry.text(1): entry for entry in message.messages(3, "block_specializations")}
    body = blocks[opset].message(2, opset) if opset in blocks else None
    if body is None:
        raise message.error(f"no block for the function's own opset {opset!r}")
    inputs = _named(message, 1, "inputs")
    return Function(name, opset, inputs, _block(body, blobs, 0, {given.name for given in inputs}))


def _block(message: Message, blobs: Blobs, depth: int, outer: set[str]) -> Block:
    if depth > MAX_BLOCK_DEPTH:
        raise message.error(f"blocks are nested deeper than {MAX_BLOCK_DEPTH}")
    inputs = _named(message, 1, "inputs")
    known = outer | {given.name for given in inputs}
    operations = []
    for part in message.messages(3, "operations"):
        operation = _operation(part, blobs, depth, known)
        operations.append(operation)
        known.update(output.name for output in operation.outputs)
    outputs = tuple(message.texts(2))
    for name in outputs:
        if name not in known:
            raise message.error(f"the block's output {name!r} is computed nowhere", 2)
    return Block(inputs, outputs, tuple(operations))


def _operation(message: Message, blobs: Blobs, depth: int, known: set[str]) -> Operation:
    kind = message.text(1)
    outputs = _named(message, 3, "outputs")
    attributes = {}
    for entry in message.messages(5, "attributes"):
        value = entry.message(2, entry.text(1))
        if value is not None:
            attributes[entry.text(1)] = read_value(value, blobs)
    named = attributes["name"].load() if "name" in attributes else ""
    name = named if isinstance(named, str) and named else outputs[0].name if outputs else kind
    inputs = {}
    for entry in message.messages(2, "inputs"):
        argument = entry.message(2, entry.text(1))
        inputs[entry.text(1)] = () if argument is None else _arguments(argument, blobs, name, known)
    blocks = tuple(_block(part, blobs, depth + 1, known) for part in message.messages(4, "blocks"))
    return Operation(kind, name, inputs, outputs, blocks, attributes)


def _arguments(
    message: Message, blobs: Blobs, name: str, known: set[str]
) -> tuple[Reference | Constant, ...]:
    found: list[Reference | Constant] = []
    for binding in message.messages(1, "arguments"):
        value = binding.message(2, "value")
        if value is not None:
            found.append(read_value(value, blobs))
            continue
        reference = binding.text(1)
        if reference not in known:
            raise SourceUnreadable(
                f"it uses {reference!r} before that is computed", where=f"operation {name}"
            )
        found.append(Reference(reference))
    return tuple(found)


def _named(message: Message, number: int, name: str) -> tuple[NamedType, ...]:
    found = []
    for part in message.messages(number, name):
        kind = part.message(2, "type")
        if kind is None:
            raise part.error("a value without a type", 2)
        found.append(NamedType(part.text(1), read_type(kind)))
    return tuple(found)
