"""A frozen TensorFlow graph built once more, node by node, with loops of a known length unrolled or fused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ....targets.errors import Unsupported
from . import tensorflow_functions as functions
from . import tensorflow_lists as lists
from . import tensorflow_recurrent as recurrent
from .tensorflow_functions import full, known, split
from .tensorflow_rewrites import REWRITES

MAX_STEPS = 512
"""Steps of a loop that are written out; each step is a copy of the loop's operators."""
MAX_NODES = 60_000
"""Operators of the whole program: coremltools takes about a millisecond for each."""

LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf")
CALLS = ("PartitionedCall", "StatefulPartitionedCall", "StatelessPartitionedCall")
HANDLED = frozenset((*LOOPS, *BRANCHES, *CALLS, *lists.OPERATORS, *REWRITES))
"""Operators that need no form in coremltools, since none of them is left."""


class Replay:
    """Builds a GraphDef again inside the graph that is being traced.

    coremltools reads loops over TensorLists only as TensorFlow 2.12 wrote them, and Core ML runs a loop on the
    CPU alone. So a loop that is an LSTM, a GRU or a simple RNN becomes one operator, any other whose condition
    depends on constants is unrolled, lists become the tensors in them, of branches the condition selects the
    results, and operators of `REWRITES` are written with others.
    """

    def __init__(self, library: Mapping[str, Any], fuse: bool = True) -> None:
        """`library` is FunctionDef by name, of loops' and branches' bodies; without `fuse` all loops are unrolled."""
        self.library = library
        self.fuse = fuse
        self.fused: list[str] = []
        """What became one operator, for the report: "gru of 12 steps"."""
        self.unrolled: list[str] = []
        self._bodies: dict[str, functions.Body] = {}
        self._made = 0

    def run(self, nodes: Mapping[str, Any], feeds: Mapping[str, Any], wanted: Sequence[str]) -> list[Any]:
        """Values of the tensors `wanted` ("node:0"), for `feeds`, the value of each placeholder by name.

        `nodes` are NodeDefs by name; only what `wanted` needs is built. A value is a tensor of the new graph,
        or a list of tensors. Raises Unsupported for a loop that cannot be unrolled.
        """
        values: dict[str, Any] = {f"{name}:0": value for name, value in feeds.items()}
        for name in _ordered(nodes, [split(tensor)[0] for tensor in wanted], set(feeds)):
            node = nodes[name]
            inputs = [values[full(ref)] for ref in node.input if not ref.startswith("^")]
            for index, value in enumerate(self._node(node, inputs)):
                values[f"{name}:{index}"] = value
        return [values[full(tensor)] for tensor in wanted]

    def call(self, name: str, inputs: Sequence[Any]) -> list[Any]:
        """The results of the library's function `name`, built in place."""
        body = self.body(name)
        return self.run(body.nodes, dict(zip(body.arguments, inputs, strict=True)), body.results)

    def body(self, name: str) -> functions.Body:
        """The library's function `name` as nodes of a graph."""
        if name not in self._bodies:
            self._bodies[name] = functions.body(self.library[name])
        return self._bodies[name]

    def _node(self, node: Any, inputs: list[Any]) -> Sequence[Any]:
        self._made += 1
        if self._made > MAX_NODES:
            raise Unsupported(
                f"unrolled, the program has over {MAX_NODES:,} operators",
                where=f"operator {node.name}",
                mend="Save the model for a shorter sequence, or choose target android",
            )
        if node.op in LOOPS:
            return self._loop(node, inputs)
        if node.op in CALLS:
            return self.call(node.attr["f"].func.name, inputs)
        if node.op in BRANCHES:
            return self._branch(node, inputs[0], inputs[1:])
        if node.op in lists.OPERATORS:
            return lists.OPERATORS[node.op](node, inputs, known)
        if any(isinstance(value, list) for value in inputs):
            if node.op == "Identity":
                return inputs
            raise Unsupported(f"{node.op} of a list of tensors", where=f"operator {node.name}")
        folded = _folded(node, inputs)
        if folded is not None:
            return [folded]
        if node.op in REWRITES:
            return [REWRITES[node.op](node, *inputs)]
        return _created(node, inputs)

    def _branch(self, node: Any, condition: Any, inputs: list[Any]) -> list[Any]:
        """The branch that a constant condition takes; else both, of which the condition selects the results."""
        import tensorflow as tf

        names = [node.attr[branch].func.name for branch in ("else_branch", "then_branch")]
        if known(condition) is not None:
            return self.call(names[bool(known(condition))], inputs)
        other, then = (self.call(name, inputs) for name in names)
        if any(
            isinstance(a, list) or isinstance(b, list) or a.shape != b.shape or not a.shape.is_fully_defined()
            for a, b in zip(then, other, strict=True)
        ):
            raise Unsupported(
                "the branches give other shapes, or lists, and the condition depends on the input",
                where=f"operator {node.name}",
                mend="Save the model with branches that give the same shapes",
            )
        met = tf.cast(condition, tf.bool)
        return [REWRITES["SelectV2"](node, met, a, b) for a, b in zip(then, other, strict=True)]

    def _loop(self, node: Any, state: list[Any]) -> list[Any]:
        """The loop's results, with its body as one operator, or built once a step."""
        cond, body = node.attr["cond"].func.name, node.attr["body"].func.name
        if self.fuse:
            layer = recurrent.recognised(self, cond, body, state)
            if layer is not None:
                self.fused.append(layer.title)
                return recurrent.fused(layer, state, node.name)
        for step in range(MAX_STEPS + 1):
            goes_on = known(self.call(cond, state)[0])
            if goes_on is None:
                raise Unsupported(
                    "how often the loop runs depends on the input",
                    where=f"operator {node.name}",
                    mend="Save the model with loops of a fixed length",
                )
            if not bool(goes_on):
                self.unrolled.append(f"{node.name} ({step} steps)")
                return state
            state = self.call(body, state)
        raise Unsupported(
            f"the loop runs more than {MAX_STEPS} steps, and Core ML's converter needs it unrolled",
            where=f"operator {node.name}",
            mend="Save the model for a shorter sequence, or choose target android",
        )


def _ordered(nodes: Mapping[str, Any], wanted: Sequence[str], given: set[str]) -> list[str]:
    """Names of the nodes that `wanted` needs, each after its inputs; control inputs order nothing here."""
    order: list[str] = []
    done = dict.fromkeys(given, True)
    waiting = list(reversed(wanted))
    while waiting:
        name = waiting[-1]
        if done.get(name):
            waiting.pop()
        elif name in done:
            done[name] = True
            order.append(waiting.pop())
        else:
            done[name] = False
            waiting += [split(ref)[0] for ref in nodes[name].input if not ref.startswith("^")]
    return order


def _created(node: Any, inputs: list[Any]) -> Sequence[Any]:
    """The operator once more, in the graph that is being traced."""
    import tensorflow as tf

    attributes = {key: value for key, value in node.attr.items() if not key.startswith("_")}
    operation = tf.compat.v1.get_default_graph().create_op(
        node.op, inputs, dtypes=None, name=node.name, attrs=attributes
    )
    return list(operation.outputs)


def _folded(node: Any, inputs: list[Any]) -> Any:
    """Integers and truth values computed at once, as a loop's counter and its condition are; else None."""
    import numpy as np
    import tensorflow as tf

    operators: dict[str, Callable[..., Any]] = {
        "Add": np.add, "AddV2": np.add, "Sub": np.subtract, "Mul": np.multiply, "Neg": np.negative,
        "FloorDiv": np.floor_divide, "FloorMod": np.mod, "Maximum": np.maximum, "Minimum": np.minimum,
        "Less": np.less, "LessEqual": np.less_equal, "Greater": np.greater, "GreaterEqual": np.greater_equal,
        "Equal": np.equal, "NotEqual": np.not_equal, "LogicalAnd": np.logical_and,
        "LogicalOr": np.logical_or, "LogicalNot": np.logical_not, "Identity": np.asarray,
    }  # fmt: skip
    compute = operators.get(node.op)
    if compute is None or any(value.dtype.is_floating or value.shape.rank != 0 for value in inputs):
        return None
    constants = [known(value) for value in inputs]
    if any(value is None for value in constants):
        return None
    result = np.asarray(compute(*constants))
    return tf.constant(result, tf.bool if result.dtype == bool else inputs[0].dtype)
