"""What torch would execute while it loads a .pt2 (expressions, names, operators, pickles) is refused before."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from program_archive import Edit, build, container, leaf, meta, node, refused, tensor


def call(program: Any) -> Any:
    return program["graph_module"]["module_call_graph"][0]["signature"]


def sizes(program: Any) -> Any:
    return program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]


def expression(text: str) -> Edit:
    """Put a size expression into the graph."""
    return lambda program: sizes(program).__setitem__(0, {"as_expr": {"expr_str": text}})


def guard(text: str) -> Edit:
    return lambda program: program.update(guards_code=[text])


def spec(key: str, context: Any) -> Edit:
    """Put a container with this context into the call specification."""
    return lambda program: call(program).update({key: json.dumps([1, container("dict", context, leaf())])})


RUN = "__import__('os').system('true')"
ENUM = {"__enum__": True, "fqn": "antigravity:x", "name": "y"}
FACTORY = {"default_factory_module": "antigravity"}
CODE: dict[str, tuple[Edit, str]] = {
    "size expression": (expression(RUN), r"tensor_values.x.sizes\[0\].as_expr.expr_str"),
    "size attribute": (expression("Symbol('s0').__class__"), "expr_str: not a size"),
    "size lambda": (expression("(lambda: 1)()"), "expr_str: not a size"),
    "huge power": (expression("9**9**9**9"), "expr_str: not a size"),
    "deep size": (expression("-" * 9000 + "1"), "expr_str: not a size"),
    "guard": (guard(RUN), r"guards_code\[0\]: .* is not a comparison"),
    "guard behind or": (guard(f"L['x'].size()[0] < 4 or {RUN}"), r"guards_code\[0\]"),
    "guard attribute": (guard("L.__class__ == 1"), r"guards_code\[0\]"),
    "guard quote": (guard("L['x\"'] == 1"), r"guards_code\[0\]"),
    "operator": (lambda p: node(p).update(target="torch.os.system"), r"nodes\[0\].target: the operator 'torch.os"),
    "operator of a library": (lambda p: node(p).update(target="torch.ops.evil.run.default"), "evil.run"),
    "operator that opens files": (lambda p: node(p).update(target="torch.ops.aten.from_file.default"), "from_file"),
    "operator by attrgetter": (lambda p: node(p).update(target="_operator.attrgetter"), "attrgetter"),
    "operator as argument": (
        lambda p: node(p)["inputs"].append({"name": "f", "arg": {"as_operator": "torch.os.system"}}),
        "as_operator: the operator",
    ),
    "input name": (lambda p: p["graph_module"]["graph"]["inputs"].append(tensor(f"x={RUN}")), "is not a name"),
    "node name": (lambda p: node(p).update(name=f"a\n{RUN}"), "is not a name"),
    "argument name": (lambda p: call(p).update(forward_arg_names=[f"x={RUN}"]), "forward_arg_names: .* is not a name"),
    "value name": (lambda p: p["graph_module"]["graph"]["tensor_values"].update({"x;y": meta([1])}), "is not a name"),
    "weight name": (
        lambda p: p["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name='w"),("'),
        "parameter_name: .* is not the name of a weight",
    ),
    "input key": (spec("in_spec", ["x');import os"]), "in_spec: .* is not a plain key"),
    "enumeration": (spec("in_spec", [ENUM]), "in_spec: .* names a module"),
    "default factory": (spec("out_spec", FACTORY), "out_spec: .* names a module"),
    "custom object": (lambda p: p["graph_module"]["graph"].update(custom_obj_values={"o": {}}), "custom objects"),
    "custom object argument": (
        lambda p: node(p)["inputs"].append({"name": "o", "arg": {"as_custom_obj": {"name": "o"}}}),
        "custom objects",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "words"), CODE.values(), ids=CODE.keys())
def test_what_torch_would_execute_is_refused(tmp_path: Path, edit: Edit, words: str) -> None:
    refused(build(tmp_path / "m.pt2", program=edit), words)


class Evil:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("true",)


def samples(content: bytes, name: str = "archive/data.pkl") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (samples(pickle.dumps(Evil(), protocol=2)), "would run (posix|nt) system"),
        (samples(pickle.dumps(Evil(), protocol=4)), "the pickle operation STACK_GLOBAL"),
        (samples(b"\x80\x02garbage"), "the pickle is damaged"),
        (samples(b"", "archive/constants.pkl"), "a single data.pkl is expected"),
        (pickle.dumps(Evil(), protocol=2), "does not end where the file ends"),
    ],
)
def test_example_inputs_may_only_be_tensors(tmp_path: Path, content: bytes, words: str) -> None:
    path = build(tmp_path / "m.pt2", members=lambda f: f.update({"data/sample_inputs/model.pt": content}))
    refused(path, words.replace(" system", ".system"))
