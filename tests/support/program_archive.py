"""A .pt2 archive of one linear layer, built without torch, each of whose parts a test may edit."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelport import sources
from modelport.targets.errors import SourceUnreadable

Edit = Callable[[Any], object]


def meta(
    sizes: list[Any], strides: list[Any] | None = None, dtype: int = 7, offset: int = 0
) -> dict[str, Any]:
    """A tensor's description in schema 8: contiguous where no strides are given, dtype 7 is float32."""
    if strides is None:
        strides, step = [], 1
        for size in reversed(sizes):
            strides.insert(0, step)
            step *= size if isinstance(size, int) else 1
    as_size = [
        {"as_int": s} if isinstance(s, int) else {"as_expr": {"expr_str": s, "hint": {"as_int": 4}}}
        for s in sizes
    ]
    return {
        "dtype": dtype, "sizes": as_size, "strides": [{"as_int": s} for s in strides], "layout": 7,
        "storage_offset": {"as_int": offset}, "requires_grad": False, "device": {"type": "cpu", "index": None},
    }  # fmt: skip


def tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


BATCH = "Symbol('s0', positive=True, integer=True)"


def leaf() -> dict[str, Any]:
    return {"type": None, "context": None, "children_spec": []}


def container(kind: str, context: Any, *children: Any) -> dict[str, Any]:
    return {"type": f"builtins.{kind}", "context": json.dumps(context), "children_spec": list(children)}


PROGRAM: dict[str, Any] = {
    "graph_module": {
        "graph": {
            "inputs": [tensor("p_w"), tensor("p_b"), tensor("x")],
            "outputs": [tensor("linear")],
            "nodes": [
                {
                    "target": "torch.ops.aten.linear.default",
                    "inputs": [
                        {"name": "input", "arg": tensor("x"), "kind": 1},
                        {"name": "weight", "arg": tensor("p_w"), "kind": 1},
                        {"name": "bias", "arg": tensor("p_b"), "kind": 1},
                    ],
                    "outputs": [tensor("linear")],
                    "metadata": {"stack_trace": 'File "x.py", line 1, in <module>'},
                    "name": "linear",
                }
            ],
            "tensor_values": {
                "p_w": meta([3, 5]),
                "p_b": meta([3]),
                "x": meta([BATCH, 5]),
                "linear": meta([BATCH, 3]),
            },
            "sym_int_values": {},
            "sym_bool_values": {},
            "sym_float_values": {},
            "custom_obj_values": {},
        },
        "signature": {
            "input_specs": [
                {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}},
                {"parameter": {"arg": {"name": "p_b"}, "parameter_name": "b"}},
                {"user_input": {"arg": tensor("x")}},
            ],
            "output_specs": [{"user_output": {"arg": tensor("linear")}}],
        },
        "module_call_graph": [
            {
                "fqn": "",
                "signature": {
                    "inputs": [],
                    "outputs": [],
                    "in_spec": json.dumps(
                        [1, container("tuple", None, container("tuple", None, leaf()), container("dict", []))]
                    ),
                    "out_spec": json.dumps([1, container("dict", ["scores"], leaf())]),
                    "forward_arg_names": ["x"],
                },
            }
        ],
        "metadata": {},
        "treespec_namedtuple_fields": {},
    },
    "range_constraints": {"s0": {"min_val": 1, "max_val": 64}},
    "schema_version": {"major": 8, "minor": 20},
    "guards_code": ["L['x'].size()[0] <= 64"],
    "verifiers": ["TRAINING"],
    "torch_version": "2.13.0",
    "opset_version": {"aten": 10},
}


def payload(path: str, about: dict[str, Any]) -> dict[str, Any]:
    return {"path_name": path, "is_param": True, "use_pickle": False, "tensor_meta": about}


def build(path: Path, *, program: Edit = id, weights: Edit = id, members: Edit = id) -> Path:
    """A .pt2 of one linear layer; each argument edits one of its parts."""
    graph, config = (
        copy.deepcopy(PROGRAM),
        {"w": payload("weight_0", meta([3, 5])), "b": payload("weight_1", meta([3]))},
    )
    program(graph)
    weights(config)
    files: dict[str, Any] = {
        "data/weights/weight_0": bytes(60),
        "data/weights/weight_1": bytes(12),
        "data/weights/model_weights_config.json": json.dumps({"config": config}),
        "data/constants/model_constants_config.json": json.dumps({"config": {}}),
        "models/model.json": json.dumps(graph),
        "data/sample_inputs/model.pt": b"",
        "archive_format": "pt2",
        "archive_version": "0",
        "byteorder": "little",
        ".data/version": "6\n",
    }
    members(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"m/{name}" if not name.startswith("/") else name[1:], content)
    return path


def node(program: Any) -> Any:
    """The program's only operator."""
    return program["graph_module"]["graph"]["nodes"][0]


def refused(path: Path, words: str) -> None:
    """The archive gives one error that says `words` and names the file."""
    with pytest.raises(SourceUnreadable, match=words) as caught:
        sources.open_source(path)
    assert path.name in caught.value.where
