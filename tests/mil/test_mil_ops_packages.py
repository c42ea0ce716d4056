"""Whole packages that coremltools wrote: recurrent nets, loops with lists, classifiers and attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mil_packages as made
from modelport.mil.evaluate import Evaluator
from modelport.mil.package import open_package
from modelport.targets.errors import SourceUnreadable

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]


def run(path: Path, **feeds: Any) -> Array:
    """The one output of a package that gets float32 inputs."""
    arrays = {name: np.asarray(value, np.float32) for name, value in feeds.items()}
    (result,) = Evaluator(open_package(path).program).run(arrays).values()
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
    "lstm": (torch.nn.LSTM, {"bias": False}),
    "stacked lstm": (torch.nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    "gru": (torch.nn.GRU, {"bidirectional": True}),
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
    path = made.trace(tmp_path / "m.mlpackage", module, x, "iOS17" if half else "iOS15", half=half)
    error = np.linalg.norm(run(path, x=x) - expected) / np.linalg.norm(expected)
    assert error < (3e-3 if half else 1e-5)
    assert not half or error > 1e-7, "float16 leaves a trace"


def test_a_loop_and_the_list_that_it_fills(tmp_path: Path) -> None:
    def body(mb: Any, x: Any, turns: Any) -> Any:
        def turn(i: Any, items: Any, value: Any) -> Any:
            place = mb.cast(x=mb.squeeze(x=i), dtype="int32")
            items = mb.list_write(ls=items, index=place, value=value)
            return mb.add(x=i, y=1.0), items, mb.mul(x=value, y=x)

        items = mb.make_list(init_length=1, elem_shape=(2,))
        _, items, _ = mb.while_loop(
            _cond=lambda i, items, value: mb.squeeze(x=mb.less(x=i, y=turns)),
            _body=turn,
            loop_vars=([0.0], items, x),
        )
        return mb.list_gather(ls=items, indices=mb.range_1d(start=0, end=mb.list_length(ls=items), step=1))

    path = made.build(tmp_path / "m.mlpackage", body, [(2,), (1,)])
    for turns in (4, 1):
        expected = [[2.0**n, 3.0**n] for n in range(1, turns + 1)]
        assert run(path, x0=[2, 3], x1=[turns]).tolist() == expected


def test_a_loop_without_an_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(mb: Any, x: Any) -> Any:
        return mb.while_loop(
            _cond=lambda v: mb.squeeze(x=mb.less(x=v, y=1.0)),
            _body=lambda v: mb.mul(x=v, y=0.5),
            loop_vars=(x,),
        )

    monkeypatch.setattr("modelport.mil.ops.control.MAX_ITERATIONS", 50)
    path = made.build(tmp_path / "m.mlpackage", body, [(1,)])
    assert run(path, x0=[3]).tolist() == [3]
    with pytest.raises(SourceUnreadable, match="after 50 turns"):
        run(path, x0=[0.5])


def test_a_classifier_names_its_class(tmp_path: Path) -> None:
    import coremltools

    module, x = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(-1)).eval(), torch.randn(1, 4)
    path = made.save(
        torch.jit.trace(module, x),
        tmp_path / "m.mlpackage",
        inputs=[coremltools.TensorType("x", x.shape)],
        classifier_config=coremltools.ClassifierConfig(["cat", "dog", "cow"]),
    )
    found = Evaluator(open_package(path).program).run({"x": x.numpy()})
    expected = module(x).detach().numpy()[0]
    assert str(found.pop("classLabel")) == ("cat", "dog", "cow")[int(expected.argmax())]
    (chances,) = found.values()
    np.testing.assert_allclose(chances, expected, rtol=1e-5)


def test_one_attention_operator_is_torchs(tmp_path: Path) -> None:
    class Attention(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.scaled_dot_product_attention(x, x * 0.5, x + 1)

    x = torch.randn(1, 2, 5, 8)
    path = made.trace(tmp_path / "m.mlpackage", Attention(), x, "iOS18")
    kinds = {operation.type for operation in open_package(path).program.main.block.operations}
    assert "scaled_dot_product_attention" in kinds
    np.testing.assert_allclose(run(path, x=x), Attention()(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_value_may_have_a_number_of_axes_that_only_the_run_tells(tmp_path: Path) -> None:
    import coremltools
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import get_new_symbol, types

    @mb.program(input_specs=[mb.TensorSpec(shape=(get_new_symbol(),), dtype=types.int32)])
    def filled(sizes: Any) -> Any:
        return mb.fill(shape=sizes, value=2.0)

    free = coremltools.TensorType("sizes", (coremltools.RangeDim(1, 4),), np.int32)
    path = made.save(filled, tmp_path / "m.mlpackage", "iOS15", inputs=[free])
    evaluator = Evaluator(open_package(path).program)
    for sizes in ([3], [2, 1, 3]):
        (result,) = evaluator.run({"sizes": np.array(sizes, np.int32)}).values()
        assert result.tolist() == np.full(sizes, 2.0).tolist()
