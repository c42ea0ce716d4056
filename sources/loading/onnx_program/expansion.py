"""Operators that the standard itself writes out in others: what no function here covers is run as that graph."""

from __future__ import annotations

import onnx
import torch
from onnx import defs, helper, inliner

from .call import Call, Value
from .dtypes import NUMBERS

DOMAIN = "standard"
"""Of the function while it is written into a graph: a model's own may not replace operators of ai.onnx."""


def expanded(node: onnx.NodeProto, call: Call) -> onnx.GraphProto | None:
    """The graph that the standard gives for this node and its inputs' types, or None where it gives none."""
    function = _function(node, call)
    if function is None:
        return None
    function.domain = DOMAIN
    called = onnx.NodeProto()
    called.CopyFrom(node)
    called.domain = DOMAIN
    named = {raw.name for raw in node.attribute}
    defaults = defs.get_schema(node.op_type, call.opset, "").attributes.values()
    called.attribute.extend(a.default_value for a in defaults if a.default_value.name and a.name not in named)
    graph = helper.make_graph(
        [called], "one", *([onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name]
                           for names in (node.input, node.output)),
    )  # fmt: skip
    imports = [*function.opset_import, helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function])
    return inliner.inline_local_functions(model).graph


def _function(node: onnx.NodeProto, call: Call) -> onnx.FunctionProto | None:
    """The body that is written for the newest opset that is not above the model's."""
    try:
        schema = defs.get_schema(node.op_type, call.opset, "")
    except defs.SchemaError:
        return None
    plain = [v for v in schema.function_opset_versions if v <= call.opset]
    if plain:
        return onnx.FunctionProto.FromString(schema.get_function_with_opset_version(max(plain)))
    typed = [v for v in schema.context_dependent_function_opset_versions if v <= call.opset]
    if not typed:
        return None
    types = [_type(value).SerializeToString() for value in call.inputs]
    body = schema.get_context_dependent_function_with_opset_version(
        max(typed), node.SerializeToString(), types
    )
    return onnx.FunctionProto.FromString(body)


def _type(value: Value) -> onnx.TypeProto:
    if value is None:
        return onnx.TypeProto()
    known = not isinstance(value, torch.Tensor)
    number = helper.np_dtype_to_tensor_dtype(value.dtype) if known else NUMBERS[value.dtype]
    return helper.make_tensor_type_proto(number, list(value.shape))
