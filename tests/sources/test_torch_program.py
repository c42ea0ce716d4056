import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelport import sources
from modelport.sources import torch_program
from modelport.targets.errors import SourceUnreadable

Edit = Callable[[Any], object]


def meta(
    sizes: list[Any], strides: list[Any] | None = None, dtype: int = 7, offset: int = 0
) -> dict[str, Any]:
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


def refused(path: Path, words: str) -> None:
    with pytest.raises(SourceUnreadable, match=words) as caught:
        sources.open_source(path)
    assert path.name in caught.value.where


def test_a_program_is_described_without_torch(tmp_path: Path) -> None:
    source = sources.open_source(build(tmp_path / "m.pt2"))
    facts = sources.inspect(source)
    assert (source.kind, facts.architecture) == ("torch-exported", "pytorch 2.13.0")
    assert [(t.name, t.shape, t.nbytes) for t in facts.tensors] == [("w", (3, 5), 60), ("b", (3,), 12)]
    assert [(i.name, i.dtype, i.shape) for i in facts.inputs] == [("x", "float32", ("batch", 5))]
    assert [(o.name, o.shape) for o in facts.outputs] == [("scores", ("batch", 3))]
    (op,) = facts.ops
    assert (op.kind, op.op_class, op.flops, op.weights, op.activations) == (
        "aten.linear.default",
        "gemm",
        30,
        18,
        8,
    )
    assert facts.peak_activations == 8
    assert facts.assumed == {"batch": 1}
    assert "batch may be from 1 to 64" in facts.notes[0]


def test_the_kind_is_seen_in_the_content(tmp_path: Path) -> None:
    assert torch_program.recognises(build(tmp_path / "model.bin"))
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("x", b"")
    assert not torch_program.recognises(tmp_path / "other.pt2")


def test_the_batch_keeps_to_its_range(tmp_path: Path) -> None:
    def edit(program: Any) -> None:
        program["range_constraints"]["s0"] = {"min_val": 2, "max_val": None}

    facts = sources.inspect(sources.open_source(build(tmp_path / "m.pt2", program=edit)))
    assert facts.assumed == {"batch": 2}
    assert facts.ops[0].flops == 60


def test_tied_weights_count_once(tmp_path: Path) -> None:
    def tie(config: Any) -> None:
        config["again"] = config["w"]

    facts = sources.inspect(sources.open_source(build(tmp_path / "m.pt2", weights=tie)))
    assert facts.parameters == 18


def test_an_operator_that_is_not_known_costs_an_unknown_amount(tmp_path: Path) -> None:
    path = build(
        tmp_path / "m.pt2", program=lambda p: node(p).update(target="torch.ops.aten.fft_rfft.default")
    )
    facts = sources.inspect(sources.open_source(path))
    assert (facts.ops[0].op_class, facts.ops[0].flops, facts.flops) == ("unknown", None, None)


def node(program: Any) -> Any:
    return program["graph_module"]["graph"]["nodes"][0]


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


BYTES: dict[str, tuple[Edit, str]] = {
    "short record": (lambda w: w["w"].update(tensor_meta=meta([4, 5])), "weights: w: shape .* takes 80 bytes, and 60"),
    "offset": (lambda w: w["w"].update(tensor_meta=meta([3, 5], offset=1)), "takes 64 bytes, and 60"),
    "stride": (lambda w: w["w"].update(tensor_meta=meta([3, 5], [100, 1])), "and 60 are there"),
    "huge": (lambda w: w["w"].update(tensor_meta=meta([1 << 40, 1 << 40])), "w: shape"),
    "negative stride": (lambda w: w["w"].update(tensor_meta=meta([3, 5], [-5, 1])), "plain numbers"),
    "symbolic": (lambda w: w["w"].update(tensor_meta=meta([BATCH, 5])), "plain numbers"),
    "dtype": (lambda w: w["w"]["tensor_meta"].update(dtype=99), "w.dtype: unknown dtype 99"),
    "layout": (lambda w: w["w"]["tensor_meta"].update(layout=2), "w.layout: only strided"),
    "pickled": (lambda w: w["w"].update(use_pickle=True), "w: pickled"),
    "path": (lambda w: w["w"].update(path_name="../../etc/passwd"), "w: pickled"),
    "no record": (lambda w: w["w"].update(path_name="weight_7"), r"its bytes \(weight_7\) are missing"),
    "missing": (lambda w: w.pop("b"), "data/weights: b: the graph reads this weight"),
    "other shape": (lambda w: w["w"].update(tensor_meta=meta([5, 3])), "w: dtype or shape differs"),
    "two dtypes": (lambda w: w["b"].update(path_name="weight_0", tensor_meta=meta([3], dtype=4)), "another dtype"),
    "wrong type": (lambda w: w.update(w=3), "not of the form"),
    "no sizes": (lambda w: w["w"]["tensor_meta"].pop("sizes"), "not of the form that schema 8 has"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "words"), BYTES.values(), ids=BYTES.keys())
def test_weights_must_match_their_bytes(tmp_path: Path, edit: Edit, words: str) -> None:
    refused(build(tmp_path / "m.pt2", weights=edit), words)


SCHEMA = '{"schema_version": {"major": %d}}'
MEMBERS: dict[str, tuple[Edit, str]] = {
    "compiled code": (lambda f: f.update({"data/aotinductor/model/x.so": b""}), "holds compiled machine code"),
    "custom object": (lambda f: f.update({"data/constants/custom_obj_0": b""}), "holds a custom object"),
    "second model": (lambda f: f.update({"models/other.json": "{}"}), "models/other.json: an unknown member"),
    "pickled weights": (lambda f: f.update({"data/weights/model.pt": b""}), "unknown member"),
    "outside the root": (lambda f: f.update({"/other/x": b""}), "unknown member"),
    "case": (lambda f: f.update({"extra/a": b"", "extra/A": b""}), "differ in case"),
    "format": (lambda f: f.update(archive_format="pt3"), "archive_format: b'pt3' is not known"),
    "version": (lambda f: f.update(archive_version="1"), "archive_version: b'1' is not known"),
    "big endian": (lambda f: f.update(byteorder="big"), "byteorder"),
    "no graph": (lambda f: f.pop("models/model.json"), "models/model.json: the archive has no such member"),
    "graph is text": (lambda f: f.update({"models/model.json": "{"}), "models/model.json: not valid JSON"),
    "graph is a list": (lambda f: f.update({"models/model.json": "[]"}), "model.json: a JSON object"),
    "schema": (lambda f: f.update({"models/model.json": SCHEMA % 9}), "schema_version: schema 9"),
    "empty graph": (lambda f: f.update({"models/model.json": SCHEMA % 8}), "models/model.json: not of the form"),
    "empty record": (lambda f: f.update({"data/weights/weight_0": b""}), "takes 60 bytes, and 0 are there"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "words"), MEMBERS.values(), ids=MEMBERS.keys())
def test_archives_of_another_form_are_refused(tmp_path: Path, edit: Edit, words: str) -> None:
    refused(build(tmp_path / "m.pt2", members=edit), words)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.99])
def test_a_truncated_archive_is_one_clear_error(tmp_path: Path, share: float) -> None:
    path = build(tmp_path / "m.pt2")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, "does not end where the file ends")


def test_the_old_form_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("version", "8.1")
    refused(tmp_path / "m.pt2", "torch 2.8 and before")


def test_any_field_of_another_type_is_one_clear_error(tmp_path: Path) -> None:
    """Each value of the graph in turn becomes something else; nothing but SourceUnreadable may come out."""
    places: list[tuple[Any, ...]] = []

    def walk(value: Any, at: tuple[Any, ...]) -> None:
        places.append(at)
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, item in items:
            walk(item, (*at, key))

    walk(PROGRAM["graph_module"], ("graph_module",))
    for at in places:
        other: object
        for other in (None, 7, []):

            def edit(program: Any, at: tuple[Any, ...] = at, other: Any = other) -> None:
                for key in at[:-1]:
                    program = program[key]
                program[at[-1]] = other

            path = build(tmp_path / "m.pt2", program=edit)
            try:
                sources.inspect(sources.open_source(path))
            except SourceUnreadable as error:
                assert "m.pt2" in error.where  # noqa: PT017


def network() -> Any:
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
            self.first = nn.Linear(4, 6)
            self.tied = nn.Linear(4, 6, bias=False)
            self.tied.weight = self.first.weight
            self.scale = torch.arange(6.0)
            self.register_buffer("shift", torch.ones(6), persistent=False)

        def forward(self, image: Any, extra: dict[str, Any]) -> Any:
            x = torch.relu_(self.norm(self.depthwise(self.conv(image))))
            x = nn.functional.max_pool2d(self.up(x), 2).mean((2, 3))
            with torch.no_grad():
                y = self.first(x) + self.tied(x) * self.scale + self.shift
            scores = y @ extra["keys"].transpose(-1, -2)
            return {"scores": scores.softmax(-1), "product": torch.einsum("ni,nj->nij", y, y)}

    return Network().eval()


@pytest.mark.slow
def test_a_real_program_with_every_kind_of_state(tmp_path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = network()
    args = (torch.ones(2, 3, 16, 16), {"keys": torch.ones(2, 5, 6)})
    batch = torch.export.Dim("batch", min=1, max=9)
    program = torch.export.export(
        model,
        (torch.ones(2, 3, 16, 16), {"keys": torch.ones(5, 6)}),
        dynamic_shapes=({0: batch}, {"keys": None}),
    )
    torch.export.save(program, tmp_path / "m.pt2")
    facts = sources.inspect(sources.open_source(tmp_path / "m.pt2"))
    assert [(f.name, f.shape) for f in facts.inputs] == [
        ("image", ("batch", 3, 16, 16)),
        ("extra_keys", (5, 6)),
    ]
    assert [(f.name, f.shape) for f in facts.outputs] == [
        ("scores", ("batch", 5)),
        ("product", ("batch", 6, 6)),
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(args[0][:1], {"keys": args[1]["keys"][0]})
    compute = ("conv", "depthwise", "gemm", "matmul")
    products = {op.kind: op.flops for op in facts.ops if op.op_class in compute}
    total = sum(op.flops or 0 for op in facts.ops if op.op_class in compute)
    # The counter sees einsum of two vectors as a multiplication, not as a product.
    assert total - (products["aten.einsum.default"] or 0) == counter.get_total_flops()
    stored = {
        tensor.data_ptr(): tensor.numel()
        for tensor in [*model.state_dict().values(), model.scale, model.shift]
    }
    assert facts.parameters == sum(stored.values())
    assert {op.op_class for op in facts.ops} <= {
        "conv", "depthwise", "norm", "elementwise", "pool", "gemm", "matmul", "softmax", "movement",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_real_encoder_counts_as_torch_counts(tmp_path: Path, attention: str) -> None:
    import torch
    import transformers
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(**sizes, vocab_size=99, max_position_embeddings=64)
    config._attn_implementation = attention
    model = transformers.BertModel(config).eval()
    ids = torch.ones(2, 16, dtype=torch.long)
    names = ("input_ids", "attention_mask", "token_type_ids")
    free = {0: torch.export.Dim("b", min=1, max=8), 1: torch.export.Dim("s", min=1, max=64)}
    program = torch.export.export(
        model, (), dict.fromkeys(names, ids), dynamic_shapes=dict.fromkeys(names, free)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    facts = sources.inspect(sources.open_source(tmp_path / "m.pt2"), sequence=20)
    assert facts.assumed == {"batch": 1, "sequence": 20}
    assert all(fact.shape == ("batch", "sequence") for fact in facts.inputs)
    # The counter knows the products of attention, not the CPU's fused kernel.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        model(**dict.fromkeys(names, ids[:1, :1].repeat(1, 20)))
    products = sum(op.flops or 0 for op in facts.ops if op.op_class in ("gemm", "matmul"))
    soft = 2 * 5 * 4 * 20 * 20 if attention == "sdpa" else 0
    assert products - soft == counter.get_total_flops()
    assert facts.flops is not None
    assert facts.flops > products
