"""One order and one set of names for an ONNX graph: tf2onnx keeps its nodes in sets, which differ from run to run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

NAMED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""Operators that keep the source's name: no two of them are alike, so that it never matters which one was kept."""


def settle(model: onnx.ModelProto) -> None:
    """Put nodes and stored tensors in the order in which the outputs need them, and name them by it.

    Inputs and outputs keep their names; nodes and tensors that no output needs are left out.
    """
    names = {value.name: value.name for value in (*model.graph.input, *model.graph.output)}
    _Names(names).give(model.graph, names)


class _Names:
    """Gives names that are not taken anywhere in the model."""

    def __init__(self, taken: Mapping[str, str]) -> None:
        self._taken = set(taken)

    def give(self, graph: onnx.GraphProto, names: dict[str, str]) -> None:
        """Order and rename a graph; `names` has the new names of what is known around it, and gets those inside."""
        nodes = _ordered(graph)
        stored = {tensor.name: tensor for tensor in graph.initializer}
        used: list[str] = []
        for node in nodes:
            label = self._new(re.sub(r"__\d+", "", node.name) if node.op_type in NAMED else node.op_type)
            for name in _reads(node):
                if name in stored and name not in used:
                    used.append(name)
                    names[name] = names.get(name) or self._new(f"{label}/{len(used)}")
            node.name = label
            node.input[:] = [names[name] if name else "" for name in node.input]
            for inner in _graphs(node):
                self._inside(inner, dict(names))
            for name in node.output:
                if name and name not in names:
                    names[name] = self._new(f"{label}:0")
            node.output[:] = [names[name] if name else "" for name in node.output]
        used += [value.name for value in graph.output if value.name in stored and value.name not in used]
        for name in used:
            stored[name].name = names.setdefault(name, name)
        kept = [stored[name] for name in used]
        for field, values in ((graph.node, nodes), (graph.initializer, kept)):
            copies = [type(value).FromString(value.SerializeToString()) for value in values]
            del field[:]
            field.extend(copies)
        del graph.value_info[:]

    def _inside(self, graph: onnx.GraphProto, names: dict[str, str]) -> None:
        _copies_last(graph)
        for value in graph.input:
            names[value.name] = self._new("given")
        self.give(graph, names)
        for value in (*graph.input, *graph.output):
            value.name = names[value.name]
            for dim in value.type.tensor_type.shape.dim:
                dim.ClearField("dim_param")  # a counter of the writer's

    def _new(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self._taken:
            name, count = f"{wanted}_{count}", count + 1
        self._taken.add(name)
        return name


def _copies_last(graph: onnx.GraphProto) -> None:
    """Of outputs that are one value the first is it, the others are Identities; nodes read the value itself."""
    behind = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    made = {name for node in graph.node if node.op_type != "Identity" for name in node.output}

    def value_of(name: str) -> str:
        root = name
        while root in behind:
            root = behind[root]
        return root if root in made else name

    for node in graph.node:
        node.input[:] = [value_of(name) for name in node.input]
    given: set[str] = set()
    for output in graph.output:
        value = value_of(output.name)
        if value in given:
            copy = f"{value}/copy{len(given)}"
            graph.node.add(op_type="Identity", name=copy, input=[value], output=[copy])
            output.name = copy
        else:
            output.name = value
        given.add(output.name)


def _ordered(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the outputs need, each after what it reads, in the order in which they are asked for."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    waiting = [(makers[value.name], False) for value in reversed(graph.output) if value.name in makers]
    opened: set[int] = set()
    found = []
    while waiting:
        index, ready = waiting.pop()
        if ready:
            found.append(graph.node[index])
        elif index not in opened:
            opened.add(index)
            waiting.append((index, True))
            needs = [makers[name] for name in _reads(graph.node[index]) if name in makers]
            waiting.extend((need, False) for need in reversed(needs))
    return found


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in sorted(node.attribute, key=lambda each: each.name):
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, and what the graphs that it holds read from outside."""
    return [*filter(None, node.input), *(name for inner in _graphs(node) for name in _free(inner))]


def _free(graph: onnx.GraphProto) -> list[str]:
    nodes = _ordered(graph)
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own.update(name for node in graph.node for name in node.output)
    read = [name for node in nodes for name in _reads(node)] + [value.name for value in graph.output]
    return [name for name in read if name not in own]
