"""The serialized graph of a torch program: sizes, inputs and outputs, operators, activations alive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from ...targets.facts import Dim, IoFact, OpFact, PeakFact
from .. import flops, peaks
from ..files import jsonfile
from ..flops import Step
from . import operators, symbolic

SCALAR_TYPES: Mapping[int, tuple[str, int]] = {
    1: ("uint8", 1), 2: ("int8", 1), 3: ("int16", 2), 4: ("int32", 4), 5: ("int64", 8), 6: ("float16", 2),
    7: ("float32", 4), 8: ("float64", 8), 10: ("complex64", 8), 11: ("complex128", 16), 12: ("bool", 1),
    13: ("bfloat16", 2), 28: ("uint16", 2), 29: ("float8_e4m3", 1), 30: ("float8_e5m2", 1), 34: ("uint32", 4),
    35: ("uint64", 8),
}  # fmt: skip
"""torch._export.serde.schema.ScalarType: modelport's name and bytes an element."""

_INLINED = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "wrap", "hints_wrapper", "checkpoint")
"""Higher-order operators that run their graph once."""


def scalar_type(meta: Mapping[str, Any]) -> tuple[str, int]:
    """dtype name and bytes an element of a tensor's metadata; KeyError for a type that is not known."""
    return SCALAR_TYPES[meta["dtype"]]


class Graph:
    """Reads one serialized program, whose form `torch_program` checked, at sizes assumed for free dimensions."""

    def __init__(self, program: Mapping[str, Any], sequence: int) -> None:
        module = program["graph_module"]
        self.graph = module["graph"]
        self.signature = module["signature"]
        self.calls = module["module_call_graph"]
        self.ranges = program["range_constraints"]
        self.names: dict[str, str] = {}
        """Readable names of symbols: "batch" and "sequence" where inputs show them."""
        self.values = self._assume(sequence)
        self.unknown_shapes = 0

    def _user_inputs(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for spec in self.signature["input_specs"]:
            argument = spec.get("user_input", {}).get("arg", {})
            if "as_tensor" in argument:
                name = argument["as_tensor"]["name"]
                yield name, self.graph["tensor_values"][name]

    def _assume(self, sequence: int) -> dict[str, int]:
        """A value for each symbol: batch 1, `sequence` tokens, else the example's size, within its range."""
        wanted: dict[str, int] = {}
        for _, meta in self._user_inputs():
            for axis, size in enumerate(meta["sizes"]):
                expression = size.get("as_expr")
                if expression is None:
                    continue
                found = symbolic.symbols(expression["expr_str"])
                bare = len(found) == 1 and symbolic.readable(expression["expr_str"]) == found[0]
                if not bare or found[0] in wanted:
                    continue
                known = _axis_name(axis, meta)
                self.names[found[0]] = known or f"dim_{found[0]}"
                hint = (expression.get("hint") or {}).get("as_int", 1)
                wanted[found[0]] = {"batch": 1, "sequence": sequence}.get(known, hint)
        for meta in self.graph["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    for symbol in symbolic.symbols(size["as_expr"]["expr_str"]):
                        wanted.setdefault(symbol, 1)
                        self.names.setdefault(symbol, f"dim_{symbol}")
        return {symbol: self._within(symbol, value) for symbol, value in wanted.items()}

    def _within(self, symbol: str, value: int) -> int:
        limits = self.ranges.get(symbol) or {}
        low, high = limits.get("min_val"), limits.get("max_val")
        value = max(value, low) if isinstance(low, int) else value
        return min(value, high) if isinstance(high, int) else value

    def size(self, item: Mapping[str, Any]) -> int:
        """The value of one serialized size. Raises ValueError where it cannot be known."""
        if "as_int" in item:
            return int(item["as_int"])
        expression = item["as_expr"]
        try:
            return symbolic.evaluate(expression["expr_str"], self.values)
        except ValueError:
            hint = (expression.get("hint") or {}).get("as_int")
            if hint is None:
                raise
            return int(hint)

    def shape(self, meta: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape of a tensor at the assumed sizes."""
        return tuple(self.size(item) for item in meta["sizes"])

    def dims(self, meta: Mapping[str, Any]) -> tuple[Dim, ...]:
        """The shape of a tensor with free dimensions by name."""
        result: list[Dim] = []
        for axis, item in enumerate(meta["sizes"]):
            if "as_int" in item:
                result.append(int(item["as_int"]))
                continue
            expression = symbolic.readable(item["as_expr"]["expr_str"])
            result.append(self.names.get(expression) or _axis_name(axis, meta) or f"dim_{expression}")
        return tuple(result)

    def inputs(self) -> tuple[IoFact, ...]:
        """The tensors that the user gives, in order."""
        return tuple(
            IoFact(name, scalar_type(meta)[0], self._input_dims(meta)) for name, meta in self._user_inputs()
        )

    def _input_dims(self, meta: Mapping[str, Any]) -> tuple[Dim, ...]:
        """As the loader names them: axis 0 "batch", axis 1 of integer ids "sequence", others by symbol."""
        return tuple(
            (_axis_name(axis, meta) or dim) if isinstance(dim, str) else dim
            for axis, dim in enumerate(self.dims(meta))
        )

    def output_values(self) -> tuple[str, ...]:
        """Names of the values that are the user's outputs, in order; "" for one that is no tensor."""
        outputs = [
            spec["user_output"]["arg"] for spec in self.signature["output_specs"] if "user_output" in spec
        ]
        return tuple(argument.get("as_tensor", {}).get("name", "") for argument in outputs)

    def outputs(self) -> tuple[IoFact, ...]:
        """The user's outputs: named by the keys of a dictionary, else output_0, output_1 and so on."""
        values = self.output_values()
        keys = self._output_keys(len(values)) or [f"output_{index}" for index in range(len(values))]
        facts = []
        for key, value in zip(keys, values, strict=True):
            meta = self.graph["tensor_values"].get(value)
            facts.append(
                IoFact(key, scalar_type(meta)[0] if meta else "float32", self.dims(meta) if meta else None)
            )
        return tuple(facts)

    def _output_keys(self, count: int) -> list[str] | None:
        signature = self.calls[0].get("signature") if self.calls else None
        if not signature or not signature.get("out_spec"):
            return None
        spec = jsonfile.parse(signature["out_spec"].encode(), "out_spec")
        top = spec[1] if isinstance(spec, list) and len(spec) == 2 else {}
        if not isinstance(top, dict) or top.get("type") != "builtins.dict":
            return None
        keys = jsonfile.parse(str(top["context"]).encode(), "out_spec")
        return [str(key) for key in keys] if isinstance(keys, list) and len(keys) == count else None

    def operators(self, weights: set[str]) -> tuple[tuple[OpFact, ...], int | None, PeakFact | None]:
        """Operators in order, and the peak of activations. `weights`: values that are stored."""
        walk = _Walk(self, weights)
        walk.run(self.graph, "", {})
        inputs = {name: prod(self.shape(meta)) for name, meta in self._user_inputs()}
        if walk.broken:
            return tuple(walk.ops), None, None
        outputs = list(self.output_values())
        return (
            tuple(walk.ops),
            flops.liveness(walk.steps, inputs, outputs),
            peaks.find(walk.steps, inputs, outputs),
        )


def _axis_name(axis: int, meta: Mapping[str, Any]) -> str:
    """ "batch" for axis 0, "sequence" for axis 1 of a matrix of integer ids, "" for others."""
    if axis == 0:
        return "batch"
    integer = scalar_type(meta)[0].startswith(("int", "uint"))
    return "sequence" if axis == 1 and integer and len(meta["sizes"]) == 2 else ""


class _Walk:
    """Goes through a graph and the graphs inside it, collecting operators and liveness steps."""

    def __init__(self, owner: Graph, weights: set[str]) -> None:
        self.owner, self.weights = owner, weights
        self.ops: list[OpFact] = []
        self.steps: list[Step] = []
        self.broken = False

    def run(self, graph: Mapping[str, Any], prefix: str, outer: Mapping[str, str]) -> None:
        """Walk `graph`; `outer` maps the names of its inputs to values of the graph around it."""
        metas = graph["tensor_values"]

        def value(name: str) -> str:
            return outer.get(name, prefix + name)

        for node in graph["nodes"]:
            arguments = list(_tensors(node["inputs"]))
            results = [name for _, name in _tensors([{"name": "", "arg": arg} for arg in node["outputs"]])]
            if not results:
                continue
            inner = next((i["arg"]["as_graph"] for i in node["inputs"] if "as_graph" in i["arg"]), None)
            if inner is not None and operators.base_name(node["target"]) in _INLINED:
                self._inline(inner["graph"], prefix, node, [value(n) for _, n in arguments], results)
                continue
            shapes = {key: self._shape(metas.get(name)) for key, name in arguments}
            outs = {name: self._shape(metas.get(name)) for name in results}
            self._append(node, [value(n) for _, n in arguments], shapes, outs, prefix)

    def _inline(
        self,
        graph: Mapping[str, Any],
        prefix: str,
        node: Mapping[str, Any],
        given: list[str],
        results: list[str],
    ) -> None:
        inside = f"{prefix}{node.get('name') or results[0]}/"
        names = [name for _, name in _tensors([{"name": "", "arg": arg} for arg in graph["inputs"]])]
        bound = dict(zip(names, given, strict=False))
        self.run(graph, inside, bound)
        made = [name for _, name in _tensors([{"name": "", "arg": arg} for arg in graph["outputs"]])]
        for result, name in zip(results, made, strict=False):
            self.steps.append(Step([bound.get(name, inside + name)], {prefix + result: 0}, alias=True))

    def _shape(self, meta: Mapping[str, Any] | None) -> tuple[int, ...] | None:
        try:
            return self.owner.shape(meta) if meta else None
        except ValueError:
            return None

    def _append(
        self, node: Mapping[str, Any], inputs: list[str], shapes: Mapping[str, tuple[int, ...] | None],
        outs: Mapping[str, tuple[int, ...] | None], prefix: str,
    ) -> None:  # fmt: skip
        target = node["target"]
        constants = {item["name"]: next(iter(item["arg"].values()), None) for item in node["inputs"]}
        known = {key: shape for key, shape in shapes.items() if shape is not None}
        made = [shape for shape in outs.values() if shape is not None]
        complete = len(known) == len(shapes) and len(made) == len(outs)
        self.broken = self.broken or len(made) != len(outs)
        stored = [name in self.weights for name in inputs]
        sizes = [prod(shape) for shape in shapes.values() if shape is not None] if complete else []
        weights = sum(size for size, is_weight in zip(sizes, stored, strict=False) if is_weight)
        name = operators.base_name(target)
        alias = name in operators.VIEWS or operators.in_place(target)
        kind = operators.op_class(target, known, constants, any(stored))
        if kind == "embedding":
            weights = prod(made[0]) if made else 0
        view = name in operators.VIEWS
        moved = 0 if view else sum(sizes) - sum(s for s, w in zip(sizes, stored, strict=False) if w)
        self.ops.append(
            OpFact(
                name=prefix + (node.get("name") or next(iter(outs))),
                kind=target.removeprefix("torch.ops."),
                op_class=kind,
                flops=operators.operations(target, known, made, constants) if complete else None,
                weights=weights,
                activations=moved if view else moved + sum(prod(shape) for shape in made),
            )
        )
        self.steps.append(
            Step(
                inputs,
                {prefix + n: prod(shape) if shape else 1 for n, shape in outs.items()},
                alias,
                self.ops[-1].name,
                self.ops[-1].kind,
                kind,
            )
        )


def _tensors(items: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(argument name, value name) of every tensor among serialized arguments; lists are numbered."""
    for item in items:
        name, argument = item["name"], item["arg"]
        if "as_tensor" in argument:
            yield name, argument["as_tensor"]["name"]
        for index, entry in enumerate(argument.get("as_tensors") or ()):
            yield f"{name}{index}", entry["name"]
        if "as_optional_tensor" in argument and "as_tensor" in argument["as_optional_tensor"]:
            yield name, argument["as_optional_tensor"]["as_tensor"]["name"]
        for index, entry in enumerate(argument.get("as_optional_tensors") or ()):
            if "as_tensor" in entry:
                yield f"{name}{index}", entry["as_tensor"]["name"]
