"""Counts the engine-ready graph by what TensorRT multiplies in, and holds it against TensorRT's rules.

An engine is counted by the graph that it was built from: what stands in it is the builder's choice, within the types
that the graph fixes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...sources.onnx.graph import Node
from ..rules import tensorrt as rules
from . import Audit, onnx

GRAPH = "model.onnx"
NARROW = ("int8", "float8_e4m3")


def count(path: Path) -> Audit:
    """Count `path`, or the model.onnx beside it where that is an engine; `broken` names each breach of a rule."""
    graph = path.with_name(GRAPH) if path.suffix == ".engine" else path
    counted = onnx.count(graph, _multiplied_in, products_only=True)
    return replace(counted, broken=tuple(str(finding) for finding in rules.check(graph)))


def _multiplied_in(node: Node, wiring: onnx.Wiring) -> str:
    """The dtype of a product: its operands' before they were dequantized, or the one in which they are typed."""
    kinds = []
    for name in node.inputs[:2]:
        made = wiring.made.get(name)
        given = made.inputs[0] if made is not None and made.op == "DequantizeLinear" else name
        stored = wiring.stored.get(given)
        kinds.append(stored.dtype if stored is not None else wiring.kinds.get(given, "float32"))
    return (
        kinds[0] if len(set(kinds)) == 1 else next((kind for kind in kinds if kind not in NARROW), "float32")
    )
