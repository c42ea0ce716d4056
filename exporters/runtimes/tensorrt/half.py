"""Strongly typed float16 and bfloat16: every value has one dtype in the graph, and casts stand where it changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ....calibration.ranges import SENTINEL
from ...onnx import files, graph

T = onnx.TensorProto
TYPES = {"fp16": T.FLOAT16, "bf16": T.BFLOAT16}
NAMES = {T.FLOAT16: "tensor(float16)", T.BFLOAT16: "tensor(bfloat16)"}
LARGEST = 65504.0
"""Largest finite float16."""
SENTINEL_IN_HALF = 30000.0
"""What a stored "infinity" (a mask's -3.4e38) becomes in float16: exp(-30000) is 0 too, and sums stay finite."""

EXACT = ("Sin", "Cos", "Range", "CumSum", "Floor", "Ceil", "Round", "Mod")
"""Operators on positions and sizes, which 8 or 11 bits of mantissa would displace: they and what leads to them
stay float32."""
LEADS = frozenset({"Cast", "Mul", "Div", "Add", "Sub", "Sqrt", "Reciprocal", "Neg", "Unsqueeze", "Squeeze",
                   "Reshape", "Transpose", "Expand", "Concat", "MatMul", *EXACT})  # fmt: skip
RETYPED = frozenset({"Constant", "ConstantOfShape", "Cast"})
"""Operators whose attribute says the dtype of what they give."""


def clamp_sentinels(model: onnx.ModelProto) -> int:
    """Let stored values beyond ±1e30 be ±30000, in place; how many tensors held some.

    They stand for infinity (masks, padding before a maximum), and float16 would make a true infinity of them,
    whose differences are not numbers.
    """
    changed = 0
    for tensor in _stored_floats(model):
        value = numpy_helper.to_array(tensor)
        beyond = np.isfinite(value) & (np.abs(value) > SENTINEL)
        if beyond.any():
            name = tensor.name
            tensor.CopyFrom(
                numpy_helper.from_array(
                    np.where(beyond, np.sign(value) * np.float32(SENTINEL_IN_HALF), value).astype(np.float32),
                    name,
                )
            )
            changed += 1
    return changed


def _stored_floats(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every float32 tensor of the main graph: initializers, and the values of Constant and ConstantOfShape."""
    yield from graph.float_weights(model).values()
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type in RETYPED and attribute.HasField("t") and attribute.t.data_type == T.FLOAT:
                yield attribute.t


def exact_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of nodes that compute positions and sizes in float: those of `EXACT` and the simple ones before them."""
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = graph.float_weights(model)
    floats = {value.name for value in model.graph.value_info if value.type.tensor_type.elem_type == T.FLOAT}
    seen: set[str] = set()
    waiting = [
        node for node in model.graph.node if node.op_type in EXACT and floats & {*node.input, *node.output}
    ]
    while waiting:
        node = waiting.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type == "MatMul" and any(
            name in weights and int(np.prod(weights[name].dims)) >= 4096 for name in node.input
        ):
            seen.discard(node.name)  # a layer of the network, not an outer product of positions
            continue
        waiting += [
            makers[name]
            for name in node.input
            if name in floats & makers.keys() and makers[name].op_type in LEADS
        ]
    return seen


def typed(model: onnx.ModelProto, scheme: str, wide: Collection[str]) -> onnx.ModelProto:
    """The model computed in float16 or bfloat16 but for the nodes named in `wide`; inputs and outputs as they are.

    A value keeps its name where it is float32, and is called `<name>_half` where it is narrow. Operators for
    which ONNX has no kernel of that dtype stay float32. Raises nothing: every graph has such a form.
    """
    half = TYPES[scheme]
    retyper = _Retyper(model, half, frozenset(wide))
    graph.replace_nodes(model, list(retyper.nodes()))
    model.graph.initializer.extend(retyper.stored)
    graph.drop_unread(model)
    _declare(model, half)
    return files.tidy(model)


def _declare(model: onnx.ModelProto, half: int) -> None:
    """Say the type of every value that the nodes give: those of `<name>_half` are `<name>`'s, in half."""
    known = {
        value.name: value for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    given = {value.name for value in model.graph.output}
    made = []
    for name in (name for node in model.graph.node for name in node.output if name and name not in given):
        if name in known:
            made.append(known[name])
        elif name.endswith("_half") and name.removesuffix("_half") in known:
            value = onnx.ValueInfoProto()
            value.CopyFrom(known[name.removesuffix("_half")])
            value.name, value.type.tensor_type.elem_type = name, half
            made.append(value)
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in made]
    del model.graph.value_info[:]
    model.graph.value_info.extend(copies)


class _Retyper:
    """Rewrites one graph node by node; knows in which dtypes each float value exists."""

    def __init__(self, model: onnx.ModelProto, half: int, wide: frozenset[str]) -> None:
        self._model, self._half, self._wide = model, half, wide
        self._opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        self._floats = {
            value.name
            for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
            if value.type.tensor_type.elem_type == T.FLOAT
        }
        self._weights = graph.float_weights(model)
        self._floats |= self._weights.keys()
        self._full = set(self._weights) | {value.name for value in model.graph.input}
        self._narrow: set[str] = set()
        self.stored: list[onnx.TensorProto] = []

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """The nodes of the typed graph, casts among them, in an order in which each can be computed."""
        for node in self._model.graph.node:
            yield from self._rewritten(node)
        for value in self._model.graph.output:
            if value.name in self._floats:
                yield from self._as_full(value.name)

    def _rewritten(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        floats = [name for name in (*node.input, *node.output) if name in self._floats]
        if not floats:
            yield node
        elif node.op_type == "Cast" and node.output[0] not in self._floats:
            # From a float to something else: the dtype that the value was made in, since half would round it.
            if node.input[0] not in self._full:
                node.input[0] = f"{node.input[0]}_half"
            yield node
        elif node.name in self._wide or not self._has_kernel(node):
            for name in files.reads(node):
                if name in self._floats:
                    yield from self._as_full(name)
            yield node
            self._full.update(name for name in node.output if name in self._floats)
        else:
            yield from self._narrowed(node)

    def _narrowed(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        for position, name in enumerate(node.input):
            if name in self._floats and self._takes(node, position):
                yield from self._as_narrow(name)
                node.input[position] = f"{name}_half"
            elif name in self._floats:
                yield from self._as_full(name)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == T.FLOAT:
                attribute.i = self._half
            elif node.op_type in RETYPED and attribute.HasField("t"):
                attribute.t.CopyFrom(self._converted(attribute.t, attribute.t.name))
        for position, name in enumerate(node.output):
            if name in self._floats:
                node.output[position] = f"{name}_half"
                self._narrow.add(name)
        yield node

    def _as_narrow(self, name: str) -> Iterator[onnx.NodeProto]:
        if name in self._narrow:
            return
        self._narrow.add(name)
        if name in self._weights:
            self.stored.append(self._converted(self._weights[name], f"{name}_half"))
        else:
            yield helper.make_node("Cast", [name], [f"{name}_half"], f"{name}_narrow", to=self._half)

    def _as_full(self, name: str) -> Iterator[onnx.NodeProto]:
        if name not in self._full:
            self._full.add(name)
            yield helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_full", to=T.FLOAT)

    def _converted(self, tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
        if tensor.data_type != T.FLOAT:
            return tensor
        return numpy_helper.from_array(rounded(numpy_helper.to_array(tensor), self._half), name)

    def _has_kernel(self, node: onnx.NodeProto) -> bool:
        """Whether ONNX defines this operator for the narrow dtype, and we can say what it shall give."""
        schema = self._schema(node)
        if schema is None or any(a.HasField("g") or a.graphs for a in node.attribute):
            return False
        if node.op_type == "Constant" and not any(a.HasField("t") for a in node.attribute):
            return False
        if node.op_type not in RETYPED and any(a.name == "dtype" and a.i == T.FLOAT for a in node.attribute):
            return False
        if node.op_type == "Constant":
            return True
        outputs = (self._formal(schema.outputs, index) for index in range(len(node.output)))
        named = zip(outputs, node.output, strict=True)
        return all(
            NAMES[self._half] in self._allowed(schema, formal)
            for formal, name in named
            if name in self._floats
        )

    def _takes(self, node: onnx.NodeProto, position: int) -> bool:
        schema = self._schema(node)
        return NAMES[self._half] in self._allowed(schema, self._formal(schema.inputs, position))

    def _schema(self, node: onnx.NodeProto) -> Any:
        domain = node.domain if node.domain != "ai.onnx" else ""
        try:
            return onnx.defs.get_schema(node.op_type, self._opset[domain or "ai.onnx"], domain)
        except (KeyError, onnx.defs.SchemaError):
            return None

    @staticmethod
    def _formal(formals: Any, position: int) -> Any:
        return formals[min(position, len(formals) - 1)]

    @staticmethod
    def _allowed(schema: Any, formal: Any) -> Collection[str]:
        for constraint in schema.type_constraints:
            if constraint.type_param_str == formal.type_str:
                allowed: Collection[str] = constraint.allowed_type_strs
                return allowed
        return (formal.type_str,)


def rounded(value: np.ndarray[Any, Any], half: int) -> np.ndarray[Any, Any]:
    """float32 values as float16 or bfloat16; float16 values beyond its range become infinite."""
    if half == T.FLOAT16:
        with np.errstate(over="ignore"):
            return value.astype(np.float16)
    import ml_dtypes

    return value.astype(ml_dtypes.bfloat16)
