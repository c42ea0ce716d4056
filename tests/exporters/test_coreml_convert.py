"""Torch models as Core ML packages: what is computed, names, shapes, images, labels, errors, and equal bytes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")
torch = pytest.importorskip("torch")

from coreml_convert import converted, convertible, model, written  # noqa: E402
from modelport.exporters.job import Job, Outcome  # noqa: E402
from modelport.exporters.runtimes import coreml  # noqa: E402
from modelport.exporters.runtimes.coreml import explain  # noqa: E402
from modelport.exporters.runtimes.coreml.passes import decompose, translations  # noqa: E402
from modelport.mil.evaluate import Evaluator  # noqa: E402
from modelport.mil.package import open_package  # noqa: E402
from modelport.mil.program import Block  # noqa: E402
from modelport.sources.loading import torch_model  # noqa: E402
from modelport.targets.errors import Unsupported, UsageError  # noqa: E402

pytestmark = pytest.mark.slow

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=120, max_position_embeddings=64, **TINY), add_pooling_layer=False)


def _vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, **TINY))


def _mobilenet() -> Any:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    made = MobileNetV2ForImageClassification(MobileNetV2Config(image_size=32, depth_multiplier=0.35))
    return _alive(made)


def _resnet() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return _alive(ResNetForImageClassification(ResNetConfig(**sizes)))


def _alive(made: Any) -> Any:
    """Weights large enough for a signal to come through many layers."""
    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return made


MODELS: dict[str, Callable[[], Any]] = {
    "bert": _bert,
    "vit": _vit,
    "mobilenet": _mobilenet,
    "resnet": _resnet,
}


def export(kind: str, source: Path, folder: Path, quant: str, **asked: Any) -> Outcome:
    """The runtime's step on a source, into folder/model.mlpackage."""
    folder.mkdir(parents=True, exist_ok=True)
    job = Job((), kind, str(source), "ios", "coreml", quant, str(folder), str(folder), options=asked)
    return coreml.export(job, lambda stage, done, total: None)


def feeds(source: torch_model.TorchModel, length: int | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """One sample for each input of a tiny model; half of a mask is off."""
    generator = np.random.default_rng(0)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for name, example in zip(source.input_names, source.example, strict=True):
        shape = tuple(example.shape) if length is None else (1, length)
        if example.is_floating_point():
            found[name] = generator.standard_normal(shape).astype(np.float32)
        elif name == "attention_mask":
            found[name] = np.asarray(np.arange(shape[1]) < (shape[1] + 1) // 2, np.int64)[None]
        else:
            found[name] = generator.integers(0, 2, shape)
    return found


def reference(source: torch_model.TorchModel, given: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """What torch computes."""
    with torch.inference_mode():
        return [out.numpy() for out in source.module(*(torch.tensor(given[n]) for n in source.input_names))]


def decibel(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Signal to quantization noise."""
    noise = np.square(got.astype(np.float64) - expected).sum()
    return float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / max(noise, 1e-30)))


def op_types(block: Block) -> set[str]:
    """Every operator type, nested blocks included."""
    return {op.type for op in block.operations}.union(
        *(op_types(b) for op in block.operations for b in op.blocks)
    )


@pytest.mark.parametrize("name", MODELS)
def test_transformers_models_keep_their_numbers_in_float32_and_float16(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    MODELS[name]().eval().save_pretrained(tmp_path / name)
    source = torch_model.load("huggingface", tmp_path / name, {"sequence": 8})
    given = feeds(source)
    for quant, least in (("fp32", 80), ("fp16", 40)):
        outcome = export("huggingface", tmp_path / name, tmp_path / quant, quant, sequence=8)
        package = open_package(tmp_path / quant / "model.mlpackage")
        assert [port.artifact for port in outcome.inputs] == list(source.input_names)
        assert [feature.name for feature in package.inputs] == list(source.input_names)
        assert {f.dtype for f in package.inputs} == ({"int32"} if name == "bert" else {"fp32"})
        got = Evaluator(package.program).run(given)
        for port, expected in zip(outcome.outputs, reference(source, given), strict=True):
            assert decibel(got[port.artifact], expected) >= least
        assert any("torch.export" in note for note in outcome.notes)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_recurrent_layers_in_both_directions_and_two_layers(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(5, 6, num_layers=2, bidirectional=True, batch_first=True).eval()
    plain = getattr(torch.nn, kind)(5, 6, bias=False).eval()

    def both(x: Any) -> tuple[Any, ...]:
        out, state = layer(x)
        states = state if isinstance(state, tuple) else (state,)
        return (out, *states, plain(x)[0])

    x = torch.randn(2, 7, 5)
    expected = both(x)
    source, evaluator = converted(both, x, folder=tmp_path, outputs=len(expected))
    got = evaluator.run({"x0": x.numpy()})
    for port, value in zip(source.outputs, expected, strict=True):
        np.testing.assert_allclose(got[port.artifact], value.detach(), rtol=1e-4, atol=1e-6)
    kinds = op_types(open_package(tmp_path / "model.mlpackage").program.main.block)
    assert ("while_loop" if kind == "GRU" else kind.lower()) in kinds  # not unrolled


def test_an_operator_that_fails_in_translation_is_decomposed_and_the_notes_say_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.LSTM(5, 6, proj_size=3).eval()  # Core ML's LSTM has no projections
    x = torch.randn(4, 2, 5)
    _, notes = written(model(lambda x: layer(x)[0], x), tmp_path)
    assert any("aten.lstm.input" in note for note in notes)
    got = Evaluator(open_package(tmp_path / "model.mlpackage").program).run({"x0": x.numpy()})["y0"]
    np.testing.assert_allclose(got, layer(x)[0].detach(), rtol=1e-4, atol=1e-6)


def test_free_sequences_compute_the_same_at_every_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    _bert().eval().save_pretrained(tmp_path / "bert")
    source = torch_model.load("huggingface", tmp_path / "bert", {"sequence": 8})
    shapes = ";".join(f"{name}=1x1..24" for name in source.input_names)
    written(source, tmp_path, shapes=shapes)
    package = open_package(tmp_path / "model.mlpackage")
    assert [feature.ranges for feature in package.inputs] == [((1, 1), (1, 24))] * 3
    assert {feature.shape for feature in package.inputs} == {(1, 8)}  # the default is what was asked for
    evaluator = Evaluator(package.program)
    for length in (1, 5, 24):
        given = feeds(source, length)
        (expected,) = reference(source, given)
        (got,) = evaluator.run(given).values()
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_listed_shapes_of_several_inputs_need_ios18(tmp_path: Path) -> None:
    source = model(
        lambda a, b: a + b.relu(), torch.randn(1, 4), torch.randn(1, 4),
        dynamic={"x0": {1: "n"}, "x1": {1: "n"}},
    )  # fmt: skip
    shapes = "x0=1x4|1x8;x1=1x4|1x8"
    with pytest.raises(UsageError, match="iOS18"):
        convertible(source, shapes=shapes)
    written(source, tmp_path, shapes=shapes, deployment_target="iOS18")
    package = open_package(tmp_path / "model.mlpackage")
    assert [feature.shapes for feature in package.inputs] == [((1, 4), (1, 8))] * 2
    wide = np.ones((1, 8), np.float32)
    assert Evaluator(package.program).run({"x0": wide, "x1": wide})["y0"].shape == (1, 8)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [("ids=1x4", "Inputs: x0"), ("x0=4", "2 axes"), ("x0=1x1..4", "axis 1 of the model is 6")],
)
def test_shapes_that_the_model_does_not_have_are_refused(shapes: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        convertible(model(torch.relu, torch.randn(1, 6)), shapes=shapes)


def test_an_image_input_takes_pixels(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 6, 5)
    source, evaluator = converted(
        lambda x: x.mean((2, 3)), x, folder=tmp_path, image_input="scale=0.5:0.25:2,bias=1:0:-1"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 5)).astype(np.float32)
    values = pixels * np.reshape([0.5, 0.25, 2], (3, 1, 1)) + np.reshape([1, 0, -1], (3, 1, 1))
    np.testing.assert_allclose(evaluator.run({"x0": pixels})["y0"], values.mean((2, 3)), rtol=1e-5)
    (feature,) = open_package(tmp_path / "model.mlpackage").inputs
    assert (feature.kind, feature.dtype, feature.shape) == ("image", "RGB", (6, 5))
    assert source.data["image"]["scale"] == [0.5, 0.25, 2.0]
    assert source.arguments is not None
    (argument,) = source.arguments({"x0": values.astype(np.float32)})
    np.testing.assert_array_equal(argument, pixels)
    with pytest.raises(UsageError, match="shape of an image"):
        convertible(model(torch.relu, torch.randn(1, 6)), image_input="")


def test_labels_add_a_class_and_its_probabilities_beside_the_logits(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    x = torch.randn(1, 3)
    asked = {"labels": str(tmp_path / "labels.txt"), "metadata": ["author=Ada", "licence=MIT", "version=2"]}
    source, evaluator = converted(lambda x: x * 2, x, folder=tmp_path, **asked)
    package = open_package(tmp_path / "model.mlpackage")
    assert [feature.name for feature in package.outputs] == ["classLabel", "classLabel_probs", "y0"]
    np.testing.assert_allclose(evaluator.run({"x0": x.numpy()})["y0"], x * 2)
    assert [port.source for port in source.outputs] == ["y0"]
    with pytest.raises(UsageError, match="3 labels"):
        convertible(model(torch.relu, torch.randn(1, 6)), labels=asked["labels"])


def test_outputs_that_are_inputs_constants_or_each_other_keep_their_own_names(tmp_path: Path) -> None:
    def same(x: Any) -> tuple[Any, ...]:
        twice = x * 2
        return x, twice, twice, torch.ones(3)

    x = torch.randn(2, 3)
    source, evaluator = converted(same, x, folder=tmp_path, outputs=4)
    got = evaluator.run({"x0": x.numpy()})
    assert [port.artifact for port in source.outputs] == ["y0", "y1", "y2", "y3"]
    for port, expected in zip(source.outputs, same(x), strict=True):
        np.testing.assert_allclose(got[port.artifact], expected)


def test_names_that_core_ml_cannot_have_are_changed_and_the_ports_say_so(tmp_path: Path) -> None:
    names = ("input.1", "input_1", "fp16")
    source, _ = written(model(lambda a, b, c: a + b + c, *[torch.ones(2)] * 3, inputs=names), tmp_path)
    assert [port.source for port in source.inputs] == list(names)
    package = open_package(tmp_path / "model.mlpackage")
    assert [port.artifact for port in source.inputs] == [feature.name for feature in package.inputs]
    assert len({port.artifact for port in source.inputs}) == 3


def test_integers_of_other_widths_are_int32_at_the_boundary(tmp_path: Path) -> None:
    x = torch.tensor([[0, 1, 3]], dtype=torch.uint8)
    _, evaluator = converted(lambda x: (x > 1).float(), x, folder=tmp_path)
    assert open_package(tmp_path / "model.mlpackage").inputs[0].dtype == "int32"
    assert evaluator.run({"x0": x.numpy().astype(np.int32)})["y0"].tolist() == [[0, 0, 1]]


def test_where_nothing_else_helps_the_model_is_traced_and_the_notes_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.frontend.torch.utils import TorchFrontend

    def fails_in_programs(context: Any, node: Any) -> None:
        if context.frontend == TorchFrontend.TORCHEXPORT:
            raise ValueError("not in an exported program")
        ops.relu(context, node)

    monkeypatch.setattr(translations, "TRANSLATIONS", {"relu": fails_in_programs})
    monkeypatch.setattr(decompose, "can_decompose", lambda name: False)
    x = torch.randn(2, 3)
    source, notes = written(model(torch.relu, x), tmp_path)
    assert any("trace" in note and "not in an exported program" in note for note in notes)
    assert [port.artifact for port in source.outputs] == ["y0"]
    got = Evaluator(open_package(tmp_path / "model.mlpackage").program).run({"x0": x.numpy()})["y0"]
    np.testing.assert_array_equal(got, torch.relu(x))
    with pytest.raises(Unsupported, match="not in an exported program"):  # a trace has fixed shapes
        written(model(torch.relu, x, dynamic={"x0": {0: "n"}}), tmp_path, shapes="x0=1..4x3")


class Hopeless(torch.nn.Module):
    """Calls a function that neither torch's rules nor Core ML know."""

    def forward(self, x: Any) -> tuple[Any, ...]:
        """Of one tensor."""
        return (torch.special.bessel_j0(x),)


def test_an_operator_without_a_form_is_named_with_its_line() -> None:
    with pytest.raises(
        Unsupported, match=r"bessel_j0.*\(test_coreml_convert\.py:\d+, in forward: return \(torch\.special"
    ):
        convertible(model(Hopeless().eval(), torch.randn(3)))


def test_control_flow_on_values_is_refused_with_torch_s_words() -> None:
    with pytest.raises(Unsupported, match=r"torch\.export cannot capture"):
        convertible(model(lambda x: x if x.sum() > 0 else -x, torch.randn(3)))


def test_an_operator_that_needs_a_later_system_says_which() -> None:
    said = (
        "No available version for pixel_unshuffle in the coremltools.target.iOS15 opset. Please update the "
        "minimum_deployment_target to at least coremltools.target.iOS16"
    )
    error = explain.failed(ValueError(said), "model.pt2", "iOS15")
    assert isinstance(error, Unsupported)
    assert "--deployment-target iOS16" in error.mend


def test_an_operator_of_a_later_system_is_decomposed_for_an_earlier_one(tmp_path: Path) -> None:
    x = torch.randn(1, 2, 4, 4)
    unshuffle = torch.nn.PixelUnshuffle(2)
    _, evaluator = converted(unshuffle, x, folder=tmp_path, deployment_target="iOS15")
    np.testing.assert_allclose(evaluator.run({"x0": x.numpy()})["y0"], unshuffle(x))


def test_a_keyword_that_coremltools_overlooks_fails_there_instead_of_computing_something_else() -> None:
    from modelport.exporters.runtimes.coreml.passes import keywords

    node = type("Node", (), {"kwinputs": {"approximate": ("tanh",), "layout": (0,)}})()
    with pytest.raises(NotImplementedError, match="approximate"):
        keywords.watched(lambda context, node: None)(None, node)
    keywords.watched(lambda context, node: node.kwinputs.get("approximate"))(None, node)


def test_coremltools_table_of_translations_is_put_back() -> None:
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    before = dict(_TORCH_OPS_REGISTRY.name_to_func_mapping)
    with translations.registered():
        assert "gru.input" in _TORCH_OPS_REGISTRY.name_to_func_mapping
    assert before == _TORCH_OPS_REGISTRY.name_to_func_mapping


SCRIPT = """
import sys
from pathlib import Path
from modelport.exporters.job import Job
from modelport.exporters.runtimes import coreml
for quant in ("fp16", "int8-weight"):
    folder = Path(sys.argv[2]) / quant
    folder.mkdir(parents=True)
    job = Job((), "torch-exported", sys.argv[1], "ios", "coreml", quant, str(folder), str(folder))
    coreml.export(job, lambda *_: None)
"""


def test_the_same_input_gives_the_same_bytes_in_another_process(digits: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(digits / "digits.pt2"), str(tmp_path / seed)],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        )
    first, second = (
        {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
        for root in (tmp_path / "1", tmp_path / "2")
    )
    assert first == second
    manifest = json.loads(first["fp16/model.mlpackage/Manifest.json"])
    assert manifest["rootModelIdentifier"] in manifest["itemInfoEntries"]
    assert b"conversion_date" not in first["fp16/model.mlpackage/Data/com.apple.CoreML/model.mlmodel"]


def test_coremltools_itself_reads_what_was_written(tmp_path: Path) -> None:
    import coremltools as ct

    written(
        model(torch.nn.Linear(64, 64).eval(), torch.randn(1, 64)),
        tmp_path,
        metadata=["description=Sixty-four"],
    )
    read = ct.models.MLModel(str(tmp_path / "model.mlpackage"), skip_model_load=True)
    assert read.short_description == "Sixty-four"
    assert read.get_spec().specificationVersion == 8  # iOS17
