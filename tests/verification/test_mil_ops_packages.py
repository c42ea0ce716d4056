"""Whole packages that coremltools wrote: recurrent nets, control flow, lists, classifiers, int8 and palettes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelport.targets.errors import SourceUnreadable
from modelport.verification.mil.evaluate import Evaluator
from modelport.verification.mil.package import open_package

pytestmark = pytest.mark.slow

ct = pytest.importorskip("coremltools")

import torch  # noqa: E402  (coremltools before torch, as its loader wants it)
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

Array = np.ndarray[Any, Any]
TARGETS = {
    "iOS15": ct.target.iOS15,
    "iOS16": ct.target.iOS16,
    "iOS17": ct.target.iOS17,
    "iOS18": ct.target.iOS18,
}


def written(model: Any, folder: Path) -> Evaluator:
    """The evaluator of the package as it lies on the disk."""
    path = folder / "model.mlpackage"
    model.save(str(path))
    return Evaluator(open_package(path).program)


def built(
    build: Callable[..., Any],
    specs: dict[str, tuple[int, ...]],
    folder: Path,
    target: str = "iOS17",
    **options: Any,
) -> Evaluator:
    """A program of coremltools' own builder, with float32 inputs of the given shapes."""
    opset = TARGETS[target]
    body = mb.program(
        input_specs=[mb.TensorSpec(shape=shape, dtype=types.fp32) for shape in specs.values()],
        opset_version=opset,
    )(build)
    model = ct.convert(
        body, convert_to="mlprogram", minimum_deployment_target=opset, source="milinternal",
        compute_precision=ct.precision.FLOAT32, skip_model_load=True, **options,
    )  # fmt: skip
    return written(model, folder)


def converted(
    module: Any, example: Any, folder: Path, target: str = "iOS17", half: bool = False, **options: Any
) -> Evaluator:
    """A torch module through coremltools' frontend."""
    traced = torch.jit.trace(module.eval(), example)
    model = ct.convert(
        traced, inputs=[ct.TensorType("x", example.shape, **options)], minimum_deployment_target=TARGETS[target],
        convert_to="mlprogram", skip_model_load=True,
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
    )  # fmt: skip
    return written(model, folder)


def only(results: dict[str, Array]) -> Array:
    (result,) = results.values()
    return result


class Tagger(torch.nn.Module):
    """A recurrent net with a head on every step."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = kind(6, 5, batch_first=True, **options)
        self.head = torch.nn.Linear(10 if options.get("bidirectional") else 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0])


LAYERS = {
    "lstm": (torch.nn.LSTM, {}),
    "stacked lstm": (torch.nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm without bias": (torch.nn.LSTM, {"bias": False}),
    "gru": (torch.nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "rnn": (torch.nn.RNN, {"num_layers": 2, "nonlinearity": "relu"}),
}


@pytest.mark.parametrize(
    ("name", "half"), [*((name, False) for name in LAYERS), ("stacked lstm", True), ("gru", True)]
)
def test_a_recurrent_net_is_torchs(name: str, half: bool, tmp_path: Path) -> None:
    kind, options = LAYERS[name]
    module, x = Tagger(kind, **options), torch.randn(2, 7, 6)
    with torch.no_grad():
        expected = module(x).numpy()
    found = only(converted(module, x, tmp_path, "iOS17" if half else "iOS15", half).run({"x": x.numpy()}))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < (3e-3 if half else 1e-5)
    assert not half or error > 1e-7, "float16 leaves a trace"


def test_a_branch_goes_where_the_predicate_says(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        positive = mb.greater(x=mb.reduce_sum(x=x, axes=[0], keep_dims=False), y=0.0)
        return mb.cond(
            pred=positive, _true_fn=lambda: mb.mul(x=x, y=2.0), _false_fn=lambda: mb.add(x=x, y=100.0)
        )

    evaluator = built(build, {"x": (2,)}, tmp_path)
    assert only(evaluator.run({"x": np.float32([1, 2])})).tolist() == [2, 4]
    assert only(evaluator.run({"x": np.float32([-1, -2])})).tolist() == [99, 98]


def test_a_loop_and_the_list_that_it_fills(tmp_path: Path) -> None:
    def build(x: Any, turns: Any) -> Any:
        def body(i: Any, items: Any, value: Any) -> Any:
            return mb.add(x=i, y=1.0), mb.list_write(ls=items, index=mb.cast(x=mb.squeeze(x=i), dtype="int32"),
                                                     value=value), mb.mul(x=value, y=x)  # fmt: skip

        items = mb.make_list(init_length=1, elem_shape=(2,))
        _, items, _ = mb.while_loop(
            _cond=lambda i, items, value: mb.squeeze(x=mb.less(x=i, y=turns)),
            _body=body,
            loop_vars=([0.0], items, x),
        )
        length = mb.list_length(ls=items)
        return mb.list_gather(ls=items, indices=mb.range_1d(start=0, end=length, step=1))

    evaluator = built(build, {"x": (2,), "turns": (1,)}, tmp_path)
    for turns in (4, 1):
        found = only(evaluator.run({"x": np.float32([2, 3]), "turns": np.float32([turns])}))
        assert found.tolist() == [[2.0**n, 3.0**n] for n in range(1, turns + 1)]


def test_a_loop_without_an_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(x: Any) -> Any:
        return mb.while_loop(
            _cond=lambda v: mb.squeeze(x=mb.less(x=v, y=1.0)),
            _body=lambda v: mb.mul(x=v, y=0.5),
            loop_vars=(x,),
        )

    monkeypatch.setattr("modelport.verification.mil.ops.control.MAX_ITERATIONS", 50)
    evaluator = built(build, {"x": (1,)}, tmp_path)
    assert only(evaluator.run({"x": np.float32([3])})).tolist() == [3]
    with pytest.raises(SourceUnreadable, match="after 50 turns"):
        evaluator.run({"x": np.float32([0.5])})


def test_a_classifier_names_its_class(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(-1)).eval()
    x = torch.randn(1, 4)
    model = ct.convert(
        torch.jit.trace(module, x), inputs=[ct.TensorType("x", x.shape)], convert_to="mlprogram", skip_model_load=True,
        classifier_config=ct.ClassifierConfig(["cat", "dog", "cow"]), compute_precision=ct.precision.FLOAT32,
    )  # fmt: skip
    found = written(model, tmp_path).run({"x": x.numpy()})
    expected = module(x).detach().numpy()[0]
    assert str(found["classLabel"]) == ("cat", "dog", "cow")[int(expected.argmax())]
    (chances,) = (value for name, value in found.items() if name != "classLabel")
    np.testing.assert_allclose(chances, expected, rtol=1e-5)


def small_net() -> Any:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 64), torch.nn.Linear(64, 10),
    ).eval()  # fmt: skip


SCHEMES: dict[str, tuple[str, Callable[[Any, Any], Any], float]] = {
    "int8 of iOS16": ("iOS16", lambda cto, model: cto.linear_quantize_weights(
        model, cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=10))), 0.03),
    "int8 of iOS18": ("iOS18", lambda cto, model: cto.linear_quantize_weights(
        model, cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=10))), 0.03),
    "int4 blocks": ("iOS18", lambda cto, model: cto.linear_quantize_weights(
        model, cto.OptimizationConfig(cto.OpLinearQuantizerConfig(
            dtype="int4", granularity="per_block", block_size=16, weight_threshold=10))), 0.5),
    "palette of iOS16": ("iOS16", lambda cto, model: cto.palettize_weights(
        model, cto.OptimizationConfig(cto.OpPalettizerConfig(mode="uniform", nbits=6, weight_threshold=10))), 0.3),
    "palettes by group": ("iOS18", lambda cto, model: cto.palettize_weights(
        model, cto.OptimizationConfig(cto.OpPalettizerConfig(
            mode="uniform", nbits=6, granularity="per_grouped_channel", group_size=8, weight_threshold=10))), 0.3),
    "sparse": ("iOS16", lambda cto, model: cto.prune_weights(
        model, cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.3, weight_threshold=10))), 0.5),
    "sparse of iOS18": ("iOS18", lambda cto, model: cto.prune_weights(
        model, cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.3, weight_threshold=10))), 0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMES)
def test_compressed_weights_are_what_coremltools_decompresses(name: str, tmp_path: Path) -> None:
    target, compress, tolerance = SCHEMES[name]
    import coremltools.optimize.coreml as cto

    module, x = small_net(), torch.randn(1, 3, 8, 8)
    model = ct.convert(
        torch.jit.trace(module, x), inputs=[ct.TensorType("x", x.shape)], minimum_deployment_target=TARGETS[target],
        convert_to="mlprogram", skip_model_load=True, compute_precision=ct.precision.FLOAT32,
    )  # fmt: skip
    small = compress(cto, model)
    found = only(written(small, tmp_path / "small").run({"x": x.numpy()}))
    # coremltools' own decompression of the same weights, evaluated as plain constants.
    plain = only(written(cto.decompress_weights(small), tmp_path / "plain").run({"x": x.numpy()}))
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)
    expected = module(x).detach().numpy()
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < tolerance
    assert np.abs(found - expected).max() > 1e-6, "the weights are compressed"


def test_one_attention_operator_is_torchs(tmp_path: Path) -> None:
    class Attention(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(x, x * 0.5, x + 1)

    x = torch.randn(1, 2, 5, 8)
    evaluator = converted(Attention(), x, tmp_path, "iOS18")
    kinds = {
        operation.type
        for operation in open_package(tmp_path / "model.mlpackage").program.main.block.operations
    }
    assert "scaled_dot_product_attention" in kinds
    np.testing.assert_allclose(
        only(evaluator.run({"x": x.numpy()})), Attention()(x).numpy(), rtol=1e-4, atol=1e-5
    )
