"""Which operator is computed in what: one rule of ai-edge-quantizer's for every operator of a graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...calibration.ranges import Range
from ...targets.errors import Unsupported
from .flatbuffer import Graph, Op

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
COMPUTE = ("FULLY_CONNECTED", "BATCH_MATMUL", *CONVOLUTIONS)
"""Operators that multiply and accumulate: they are what int8 is for."""

FOLLOWING = (
    "ADD", "AVERAGE_POOL_2D", "BROADCAST_TO", "CONCATENATION", "GATHER", "GATHER_ND", "HARD_SWISH", "LOGISTIC",
    "MAXIMUM", "MAX_POOL_2D", "MEAN", "MIRROR_PAD", "MUL", "PACK", "PAD", "PADV2", "RELU", "RESHAPE",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT",
    "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "UNPACK",
)  # fmt: skip
"""Operators that are int8 where all their neighbours are. Those in neither list stay float: what divides,
squares, takes roots or exponents (norms, GELU) wants more than 8 bits."""

LAST_ONLY = ("SOFTMAX",)
"""int8 at the end of a classifier, float inside attention, where small probabilities carry the result."""

MOVEMENT = ("BROADCAST_TO", "CAST", "CONCATENATION", "PACK", "RESHAPE", "SLICE", "STRIDED_SLICE", "TRANSPOSE")
"""Operators that compute nothing, so that float costs no precision and is not worth a word."""

MIN_SQNR_DB = 20.0
"""An activation that 8 bits cannot hold with this much signal to noise is not given a fixed int8 range."""

FP16_MAX = 65504.0
BLOCK = 32
"""Weights that share one scale in int4: 4 bits and a 16-bit scale per 32 make 4.5 bits a weight."""

ANY = ".*"


@dataclass(frozen=True)
class Plan:
    """The kinds of computation of one model: operator indices by what each becomes."""

    static: tuple[Op, ...] = ()
    dynamic: tuple[Op, ...] = ()
    left: tuple[Op, ...] = ()
    """Operators with floating-point inputs or outputs that stay float."""
    coarse: tuple[Op, ...] = ()
    """Those of `dynamic` and `left` that are there because of their activations' range."""


def static_plan(graph: Graph, ranges: Mapping[int, Range] | None = None) -> Plan:
    """Static int8 wherever 8 bits are enough; the ranges, once known, move operators out of it.

    A layer whose input or output has a few huge values (the "massive activations" of transformers; Sun et
    al., arXiv:2402.17762) would lose all others to rounding. It keeps int8 weights and int8 arithmetic, and
    its activations get a range per row while it runs ("dynamic").
    """
    coarse = tuple(op for op in graph.ops if ranges and op.kind in COMPUTE and _is_coarse(graph, op, ranges))
    static = _settle(graph, excluded={op.index for op in coarse})
    dynamic = [op for op in graph.ops if op.kind == "EMBEDDING_LOOKUP" and graph.weights(op)]
    dynamic += [op for op in coarse if graph.weights(op)]
    taken = static | {op.index for op in dynamic}
    return Plan(
        static=tuple(op for op in graph.ops if op.index in static),
        dynamic=tuple(dynamic),
        left=tuple(op for op in graph.ops if op.index not in taken and _touches_float(graph, op)),
        coarse=coarse,
    )


def _is_coarse(graph: Graph, op: Op, ranges: Mapping[int, Range]) -> bool:
    tensors = (*graph.activations(op.inputs), *graph.activations(op.outputs))
    return any(ranges[tensor].sqnr_db < MIN_SQNR_DB for tensor in tensors if tensor in ranges)


def _touches_float(graph: Graph, op: Op) -> bool:
    return any(t >= 0 and graph.is_float(t) for t in (*op.inputs, *op.outputs))


def _settle(graph: Graph, excluded: Collection[int]) -> set[int]:
    """Indices of the operators that are static int8: the largest set in which followers have such neighbours."""
    ends = set(graph.outputs)
    chosen = {
        op.index
        for op in graph.ops
        if op.index not in excluded
        and _touches_float(graph, op)
        and (
            op.kind in COMPUTE
            or (op.kind in FOLLOWING and (op.kind not in LAST_ONLY or set(op.outputs) <= ends))
        )
    }
    followers = [op for op in graph.ops if op.index in chosen and op.kind in FOLLOWING]
    changed = True
    while changed:
        lonely = {op.index for op in followers if not _among(graph, op, chosen)} & chosen
        chosen -= lonely
        changed = bool(lonely)
    return chosen


def _among(graph: Graph, op: Op, chosen: Collection[int]) -> bool:
    """Whether everything that feeds `op` and everything that it feeds is in `chosen`, or the graph's edge."""
    before = [graph.producer.get(tensor) for tensor in graph.activations(op.inputs)]
    after = [reader for tensor in op.outputs for reader in graph.consumers.get(tensor, [])]
    return all(other is None or other.index in chosen for other in (*before, *after))


def observed_tensors(graph: Graph, plan: Plan) -> set[int]:
    """The activations whose ranges a static plan needs: those of its operators, and the graph's own edge."""
    operators = (*plan.static, *(op for op in graph.ops if op.kind in COMPUTE))
    found = {t for op in operators for t in graph.activations((*op.inputs, *op.outputs))}
    return found | set(graph.activations((*graph.inputs, *graph.outputs)))


Recipe = list[dict[str, Any]]


def static_recipe(graph: Graph, plan: Plan) -> Recipe:
    """int8 weights and activations for the plan's static operators, int8 at the graph's boundary."""
    rules = _rules()
    rules.add_static_config(ANY, _operation("INPUT"), 8, 8)
    rules.add_static_config(ANY, _operation("OUTPUT"), 8, 8)
    _each(graph, plan.static, lambda scope, kind: rules.add_static_config(scope, kind, 8, 8))
    _each(graph, plan.dynamic, lambda scope, kind: rules.add_dynamic_config(scope, kind, 8))
    return list(rules.get_quantization_recipe())


def integer_recipe(graph: Graph, bits: int) -> Recipe:
    """Static integers for every operator that ai-edge-quantizer knows: int8 weights, activations of `bits`."""
    from ai_edge_quantizer.qtyping import TFLOperationName

    rules = _rules()
    known = {name.name for name in TFLOperationName} | {"TRANSPOSE_CONV"}
    for kind in ("INPUT", "OUTPUT", *sorted({op.kind for op in graph.ops} & known)):
        rules.add_static_config(ANY, _operation(kind), bits, 8)
    return list(rules.get_quantization_recipe())


def dynamic_recipe() -> Recipe:
    """int8 weights, activations quantized as they come, in every operator that has such a kernel."""
    rules = _rules()
    rules.add_dynamic_config(ANY, _any_operator(), 8)
    return list(rules.get_quantization_recipe())


def weight_recipe() -> Recipe:
    """int8 weights behind an explicit DEQUANTIZE; everything is computed in float.

    An embedding look-up reads its int8 rows itself: it has float results and no float copy of the table.
    """
    rules = _rules()
    rules.add_weight_only_config(ANY, _any_operator(), 8)
    rules.add_dynamic_config(ANY, _operation("EMBEDDING_LOOKUP"), 8)
    return list(rules.get_quantization_recipe())


def half_recipe(graph: Graph) -> tuple[Recipe, tuple[Op, ...]]:
    """float16 weights behind a DEQUANTIZE, and the operators whose weights float16 cannot hold (beyond 65504)."""
    import numpy as np
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    rules = _rules()
    kinds = ("FULLY_CONNECTED", "EMBEDDING_LOOKUP", *CONVOLUTIONS)
    for kind in kinds:
        rules.add_weight_only_config(ANY, _operation(kind), 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    wide = tuple(
        op
        for op in graph.ops
        if op.kind in kinds
        and any(np.abs(graph.values(t)).max(initial=0) > FP16_MAX for t in graph.weights(op))
    )
    _each(
        graph,
        wide,
        lambda scope, kind: rules.add_quantization_config(
            scope, kind, algorithm_key=AlgorithmName.NO_QUANTIZE
        ),
    )
    return list(rules.get_quantization_recipe()), wide


def four_bit_recipe(graph: Graph) -> tuple[Recipe, tuple[Op, ...]]:
    """int4 weights in blocks of 32, and the operators that get int8 because they cannot have those.

    Raises Unsupported where int4 would reach less than half of the weights: LiteRT has such kernels for
    FULLY_CONNECTED and EMBEDDING_LOOKUP alone.
    """
    readers = [op for op in graph.ops if op.kind in (*COMPUTE, "EMBEDDING_LOOKUP") and graph.weights(op)]
    fitting = [op for op in readers if _has_blocks(graph, op)]
    others = [op for op in readers if not _has_blocks(graph, op)]
    inside, outside = (sum(_elements(graph, op) for op in ops) for ops in (fitting, others))
    if inside <= outside:
        kinds = sorted({op.kind for op in others}) or ["what its loops hold"]
        raise Unsupported(
            f"int4 weights would reach {inside / max(inside + outside, 1):.0%} of this model: blocks of {BLOCK} "
            f"int4 weights are not for {', '.join(kinds)}",
            where="--quant int4-weight",
            mend="Choose int8-weight, or int8 with calibration data",
        )
    from ai_edge_quantizer.qtyping import QuantGranularity

    rules = _rules()
    _each(
        graph,
        fitting,
        lambda scope, kind: rules.add_dynamic_config(
            scope, kind, 4, granularity=QuantGranularity.BLOCKWISE_32
        ),
    )
    _each(graph, others, lambda scope, kind: rules.add_dynamic_config(scope, kind, 8))
    return list(rules.get_quantization_recipe()), tuple(others)


def _has_blocks(graph: Graph, op: Op) -> bool:
    if op.kind not in ("FULLY_CONNECTED", "EMBEDDING_LOOKUP"):
        return False
    shape = graph.shape(op.inputs[1])
    return graph.is_constant(op.inputs[1]) and len(shape) == 2 and shape[1] % BLOCK == 0


def _elements(graph: Graph, op: Op) -> int:
    import math

    return sum(math.prod(graph.shape(tensor)) for tensor in graph.weights(op))


def _each(graph: Graph, ops: Iterable[Op], add: Callable[[str, Any], None]) -> None:
    """Call `add(scope, operation)` once per kind of operator, the scope matching these operators alone."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as utils

    scopes: dict[str, list[str]] = {}
    for op in ops:
        raw = graph.subgraph.operators[op.index]
        scopes.setdefault(op.kind, []).append(utils.get_op_scope(raw, graph.subgraph.tensors))
    for kind, names in sorted(scopes.items()):
        add(f"^(?:{'|'.join(re.escape(name) for name in names)})$", _operation(kind))


def _operation(kind: str) -> Any:
    """ai-edge-quantizer's name of an operator."""
    from ai_edge_quantizer.qtyping import TFLOperationName

    return TFLOperationName["CONV_2D_TRANSPOSE" if kind == "TRANSPOSE_CONV" else kind]


def _any_operator() -> Any:
    from ai_edge_quantizer.qtyping import TFLOperationName

    return TFLOperationName.ALL_SUPPORTED


def _rules() -> Any:
    from ai_edge_quantizer.recipe_manager import RecipeManager

    return RecipeManager()
