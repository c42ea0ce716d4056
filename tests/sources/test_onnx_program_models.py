"""Whole ONNX models as torch programs, as torch's two exporters and the standard write them, against ONNX Runtime."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from modelport.sources.loading import onnx_program
from modelport.sources.loading.onnx_program import stored
from modelport.targets.errors import Unsupported

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


def worst(path: Path, inputs: list[np.ndarray[Any, Any]] | None = None) -> float:
    """The largest difference between the exported program and ONNX Runtime, over the largest value."""
    import onnxruntime

    loaded = onnx_program.load(path, {})
    if inputs is None:
        draw = np.random.default_rng(0).standard_normal
        inputs = [draw(tuple(tensor.shape), np.float32) for tensor in loaded.example]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = session.run(None, dict(zip(loaded.input_names, inputs, strict=True)))
    program = torch.export.export(loaded.module, loaded.example, strict=False)
    given = program.module()(*[torch.from_numpy(value) for value in inputs])
    return max(
        float(np.abs(got.detach().numpy() - right).max() / np.abs(right).max())
        for got, right in zip(given, wanted, strict=True)
    )


class Net(torch.nn.Module):
    """What U-Nets, detectors and mobile networks are made of, in one."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.stem, self.deep = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 2, dilation=2, groups=8)
        self.norm, self.groups, self.slope = nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.PReLU(8)
        self.up, self.head = nn.ConvTranspose2d(8, 8, 2, 2), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.hardswish(self.norm(self.deep(F.relu6(self.stem(x)))))
        near = F.interpolate(F.max_pool2d(y, 2), scale_factor=2.0, mode="nearest")
        smooth = F.interpolate(F.avg_pool2d(y, 3, 2, 1), size=(8, 8), mode="bilinear", align_corners=False)
        y = (y + near)[:, 0:8] + self.up(smooth)[:, :, 4:12, 4:12]
        first, second = self.slope(self.groups(F.silu(y))).chunk(2, 1)
        y = F.pixel_shuffle(torch.cat([second * torch.sigmoid(first), first] * 4, 1), 2)
        return torch.softmax(self.head(F.adaptive_avg_pool2d(y, 1).flatten(1)), -1)


class Recurrent(torch.nn.Module):
    """An LSTM in both directions, and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True)
        self.gru = torch.nn.GRU(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.lstm(x)[0])[0]


class First(torch.nn.Module):
    """The first result of a Hugging Face model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.model(*tensors)[0]


def write(
    module: torch.nn.Module, args: tuple[torch.Tensor, ...], path: Path, opset: int, dynamo: bool
) -> Path:
    """The file that one of torch's exporters makes."""
    torch.onnx.export(module.eval(), args, str(path), opset_version=opset, dynamo=dynamo)
    return path


@pytest.mark.parametrize(
    ("opset", "dynamo"), [(9, False), (11, False), (13, False), (17, False), (18, True), (23, True)]
)
def test_a_convolutional_network_of_either_exporter(tmp_path: Path, opset: int, dynamo: bool) -> None:
    assert worst(write(Net(), (torch.randn(1, 3, 16, 16),), tmp_path / "n.onnx", opset, dynamo)) < 1e-5


@pytest.mark.parametrize(("opset", "dynamo"), [(17, False), (18, True)])
def test_recurrent_layers_of_either_exporter(tmp_path: Path, opset: int, dynamo: bool) -> None:
    assert worst(write(Recurrent(), (torch.randn(1, 7, 6),), tmp_path / "r.onnx", opset, dynamo)) < 1e-5


@pytest.mark.parametrize(("opset", "dynamo"), [(17, False), (18, True), (23, True)])
def test_a_sentence_encoder_with_padding_of_either_exporter(tmp_path: Path, opset: int, dynamo: bool) -> None:
    import transformers as tf

    config = tf.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    ids, mask = torch.randint(0, 50, (1, 16)), torch.ones(1, 16, dtype=torch.int64)
    mask[:, 12:] = 0
    path = write(First(tf.BertModel(config)), (ids, mask), tmp_path / "b.onnx", opset, dynamo)
    assert worst(path, [ids.numpy(), mask.numpy()]) < 1e-5


@pytest.mark.parametrize(("opset", "dynamo"), [(17, False), (23, True)])
def test_a_vision_transformer_of_either_exporter(tmp_path: Path, opset: int, dynamo: bool) -> None:
    import transformers as tf

    config = tf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    image = torch.randn(1, 3, 32, 32)
    assert worst(write(First(tf.ViTModel(config)), (image,), tmp_path / "v.onnx", opset, dynamo)) < 1e-5


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1", "densenet121", "resnet50"])
def test_the_standards_real_networks_of_opset_7_to_9(name: str) -> None:
    assert worst(DATA / "light" / f"light_{name}.onnx") < 1e-5


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ("pytorch-converted/*", 82),
        ("pytorch-operator/*", 35),
        ("simple/test_sequence_model[1-7]", 7),
        ("simple/test_s[hi]*", 3),
    ],
)
def test_the_standards_collections_of_small_models(pattern: str, least: int) -> None:
    count = 0
    for folder in sorted(DATA.glob(pattern)):
        module = onnx_program.load(folder / "model.onnx", {}).module
        for data in folder.glob("test_data_set_*"):
            inputs, outputs = (
                [numpy_helper.to_array(onnx.load_tensor(file)) for file in sorted(data.glob(f"{side}_*.pb"))]
                for side in ("input", "output")
            )
            results = module(*[torch.from_numpy(value.copy()) for value in inputs])
            for got, right in zip(results, outputs, strict=True):
                np.testing.assert_allclose(got.numpy(), right, 1e-3, 1e-6, err_msg=folder.name)
            count += 1
    assert count >= least


def as_tensorflow_writes(opset: int) -> onnx.ModelProto:
    """Channels last outside, and chains of Transpose, Pad, Unsqueeze and Reshape around convolutions: tf2onnx."""
    draw = np.random.default_rng(0).standard_normal
    axes = {"axes": [2]} if opset < 13 else {}
    second = [] if opset < 13 else ["two"]
    nodes = [
        helper.make_node("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Pad", ["nchw", "pads"], ["padded"])
        if opset >= 11
        else helper.make_node("Pad", ["nchw"], ["padded"], pads=[0, 0, 0, 0, 0, 0, 1, 1]),
        helper.make_node("Conv", ["padded", "w"], ["c"], strides=[2, 2], kernel_shape=[3, 3]),
        helper.make_node("Transpose", ["c"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["nhwc", "bias"], ["biased"]),
        helper.make_node("Shape", ["biased"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["biased", "wanted"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", *second], ["tall"], **axes),
        helper.make_node("Squeeze", ["tall", *second], ["flat"], **axes),
        helper.make_node("MatMul", ["flat", "dense"], ["y"]),
    ]
    constants = {
        "pads": np.array([0, 0, 0, 0, 0, 0, 1, 1]), "w": draw((4, 3, 3, 3)).astype(np.float32),
        "bias": draw(4).astype(np.float32), "zero": np.array([0]), "rest": np.array([-1, 4]),
        "two": np.array([2]), "dense": draw((4, 5)).astype(np.float32),
    }  # fmt: skip
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 19, 20, 21, 22, 23])
def test_a_graph_as_tensorflow_writes_it_in_every_opset(tmp_path: Path, opset: int) -> None:
    onnx.save(as_tensorflow_writes(opset), str(tmp_path / "t.onnx"))
    assert worst(tmp_path / "t.onnx") < 1e-5
    steps = [step.op for step in onnx_program.load(tmp_path / "t.onnx", {}).module._steps]
    assert not {"Shape", "Gather", "Concat"} & set(steps)  # sizes are known beforehand


def test_functions_of_the_file_become_the_operators_inside(tmp_path: Path) -> None:
    body = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    made = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["h"], domain="own"), helper.make_node("Twice", ["h"], ["y"], domain="own")],
        "g", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_tensor_value_info("y", 1, [2])],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(made, functions=[body], opset_imports=imports), str(tmp_path / "f.onnx"))
    loaded = onnx_program.load(tmp_path / "f.onnx", {})
    assert loaded.module(torch.tensor([1.0, 2.0]))[0].tolist() == [4.0, 8.0]


def test_a_foreign_operator_is_refused_even_where_its_inputs_are_known() -> None:
    made = helper.make_graph(
        [
            helper.make_node("Mul", ["one", "one"], ["k"], name="which", domain="com.microsoft"),
            helper.make_node("Add", ["x", "k"], ["y"]),
        ],
        "g", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_tensor_value_info("y", 1, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "one")],
    )  # fmt: skip
    with pytest.raises(Unsupported, match=r"com\.microsoft\.Mul"):
        onnx_program.build(helper.make_model(made), Path("m.onnx"), 8)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 700), min_size=1, max_size=6),
    dtype=st.sampled_from(["float32", "float16", "int64", "uint8", "bool"]),
    external=st.booleans(),
)
def test_weights_are_the_same_wherever_they_lie(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], dtype: str, external: bool
) -> None:
    path = tmp_path_factory.mktemp("stored") / "m.onnx"
    draw = np.random.default_rng(len(sizes)).integers
    weights = {f"w{n}": draw(0, 9, size).astype(dtype) for n, size in enumerate(sizes)}
    made = helper.make_graph(
        [helper.make_node("Identity", ["w0"], ["y"])], "g", [], [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(made), str(path), save_as_external_data=external, size_threshold=100)
    model = stored.read(path)
    for tensor in model.graph.initializer:
        value = stored.array_of(tensor, path.parent)
        np.testing.assert_array_equal(value, weights[tensor.name])
        assert value.dtype == weights[tensor.name].dtype
    whole = onnx.load(str(path))
    assert [tensor.name for tensor in model.graph.initializer] == list(weights)
    for each in (model, whole):
        del each.graph.initializer[:]
    assert model == whole


MEMORY = """
import sys, torch, onnx
from pathlib import Path
from modelport.sources.loading import onnx_program
from modelport.sources.loading.onnx_program import plan
def peak():
    return 1024 * int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
before = peak()
onnx_program.load(Path(sys.argv[1]), {})
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("external", [False, True])
def test_an_import_holds_each_weight_once(tmp_path: Path, external: bool) -> None:
    side, count = 2000, 6
    nodes = [helper.make_node("MatMul", [f"h{n}", f"w{n}"], [f"h{n + 1}"]) for n in range(count)]
    weight = np.random.default_rng(0).standard_normal((side, side), np.float32)
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("h0", 1, [1, side])],
        [helper.make_tensor_value_info(f"h{count}", 1, [1, side])],
        [numpy_helper.from_array(weight, f"w{n}") for n in range(count)],
    )  # fmt: skip
    onnx.save(helper.make_model(made), str(tmp_path / "m.onnx"), save_as_external_data=external, location="w")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "m.onnx")]
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert int(told) <= 1.3 * count * weight.nbytes
