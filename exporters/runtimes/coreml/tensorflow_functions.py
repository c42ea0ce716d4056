"""Functions of a TensorFlow graph (the bodies of loops and branches) as nodes, and references to their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Body:
    """A function as nodes by name, the names of its arguments, and its results as tensor names ("node:0")."""

    def __init__(self, nodes: Mapping[str, Any], arguments: list[str], results: list[str]) -> None:
        self.nodes, self.arguments, self.results = nodes, arguments, results

    def origin(self, tensor: str) -> str:
        """The tensor that `tensor` only hands on: through Identity, to another operator or an argument."""
        name, _ = split(tensor)
        while name not in self.arguments and self.nodes[name].op == "Identity":
            tensor = self.nodes[name].input[0]
            name, _ = split(tensor)
        return full(tensor)


def body(definition: Any) -> Body:
    """A FunctionDef as a Body."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def

    graph, names = function_def_to_graph_def(definition)
    arguments = [argument.name for argument in definition.signature.input_arg]
    results = [names[definition.ret[result.name]] for result in definition.signature.output_arg]
    return Body({node.name: node for node in graph.node}, arguments, results)


def split(ref: str) -> tuple[str, int]:
    """A reference as node and output: "a:1" is ("a", 1), "a" and "^a" are ("a", 0)."""
    name, _, index = ref.removeprefix("^").partition(":")
    return name, int(index or 0)


def full(ref: str) -> str:
    """A reference with its output: "a" is "a:0"."""
    name, index = split(ref)
    return f"{name}:{index}"


def known(value: Any) -> Any:
    """The NumPy value of a constant tensor, None for one that depends on the input."""
    import tensorflow as tf

    return None if isinstance(value, list) else tf.get_static_value(value)
