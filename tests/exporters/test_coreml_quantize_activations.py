"""int8 activations and float16's end: ranges seen on Linux, what is int8, and what must not be float16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelport.mil.program import UnknownOperator
from modelport.targets.errors import Unsupported, UsageError

pytestmark = pytest.mark.slow


def images(seed: int, count: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)}


def test_int8_digits_lose_no_half_point_of_accuracy(digits: Path, tmp_path: Path) -> None:
    from coreml_quantize import Converted, make_job

    data = {"image": np.load(digits / "calibration.npz")["image"][:200]}
    held_out = np.load(digits / "held_out.npz")
    made = Converted(make_job(tmp_path, digits / "digits.pt2", "int8", data))
    given, labels = {"image": held_out["image"]}, held_out["labels"]
    exact, found = made.reference(given), made.run(given)
    assert (found.argmax(1) == labels).mean() >= (exact.argmax(1) == labels).mean() - 0.005
    # Top-1 of an easy set does not see a broken range.
    assert made.sqnr_db(given) > 35
    assert "Ranges of 6 activations from 200 samples by minmax" in made.notes
    assert "int8 activations (static) in 3 conv, 1 linear, 2 max_pool" in made.notes


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions with a residual sum between convolutions, a norm, and a sum that a norm reads."""
    import torch

    from coreml_quantize import save

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 16, 3, padding=1)
            self.second = torch.nn.Conv2d(16, 16, 3, padding=1)
            self.third = torch.nn.Conv2d(16, 32, 3, stride=2)
            self.norm = torch.nn.LayerNorm(32)
            self.hidden = torch.nn.Linear(32, 32)
            self.last = torch.nn.Linear(32, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(image))
            x = torch.relu(x + self.second(x))
            x = torch.nn.functional.hardswish(self.third(x)).mean((2, 3))
            return self.last(self.norm(x + self.hidden(x)))

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("residual") / "residual.pt2"
    return save(Network(), (torch.zeros(1, 3, 16, 16),), path)


def test_a_sum_is_int8_between_int8_operators_and_float_before_a_norm(residual: Path, tmp_path: Path) -> None:
    from coreml_quantize import Converted, make_job

    made = Converted(make_job(tmp_path, residual, "int8", images(0, 32)))
    assert "int8 activations (static) in 1 add, 3 conv, 2 linear" in made.notes
    assert "Left in float16, since their neighbours are: 1 add" in made.notes
    assert made.sqnr_db(images(1, 16)) > 30
    dequantized = {op.outputs[0].name for op in made.operations("dequantize")}
    for op in (*made.operations("conv"), *made.operations("linear")):
        assert op.inputs["x"][0].name in dequantized, op.name
    weights = {op.outputs[0].name for op in made.operations("constexpr_affine_dequantize")}
    assert {op.inputs["weight"][0].name for op in made.operations("conv")} <= weights


def test_the_ranges_follow_the_calibration_data(residual: Path, tmp_path: Path) -> None:
    from coreml_quantize import Converted, make_job

    small = {"image": images(0, 32)["image"] * 0.01}
    clipped = Converted(make_job(tmp_path / "small", residual, "int8", small))
    assert clipped.sqnr_db(images(1, 16)) < 15
    percentile = Converted(
        make_job(tmp_path / "p", residual, "int8", images(0, 32), observer="percentile:90")
    )
    assert percentile.sqnr_db(images(1, 16)) < 20


def test_a_layer_with_a_few_huge_inputs_keeps_them_in_float(tmp_path: Path) -> None:
    import torch

    from coreml_quantize import Converted, make_job, save

    class Spiky(torch.nn.Module):
        """One feature in 64 is a thousand times the others before the second layer, and is scaled back in it."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(48, 64), torch.nn.Linear(64, 10)
            self.register_buffer("gain", torch.ones(64))
            self.gain[5] = 5000.0
            with torch.no_grad():
                self.second.weight[:, 5] /= 5000.0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.first(image.flatten(1)[:, :48])) * self.gain
            return self.second(x)

    torch.manual_seed(0)
    path = save(Spiky(), (torch.zeros(1, 3, 16, 16),), tmp_path / "spiky.pt2")
    made = Converted(make_job(tmp_path / "job", path, "int8", images(0, 32)))
    assert "since a few huge values would swallow the range: 1 linear" in made.notes
    assert "int8 activations (static) in 1 linear" in made.notes


def test_int8_wants_data_and_something_to_compute(residual: Path, tmp_path: Path) -> None:
    import torch

    from coreml_quantize import Converted, make_job, save

    with pytest.raises(UsageError, match="calibration data"):
        Converted(make_job(tmp_path / "none", residual, "int8", None))
    path = save(torch.nn.Softmax(1), (torch.zeros(1, 3, 16, 16),), tmp_path / "softmax.pt2")
    with pytest.raises(Unsupported, match="no convolution or linear layer"):
        Converted(make_job(tmp_path / "softmax", path, "int8", {"input": images(0, 4)["image"]}))


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with values of 1e5 and their squares inside, and ordinary ones at its ends."""
    import torch

    from coreml_quantize import save

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 32, 3, padding=1)
            self.hidden, self.last = torch.nn.Linear(32, 64), torch.nn.Linear(64, 10)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            large = torch.relu(self.first(image)) * 1e5
            spread = torch.sqrt(large.square().mean((2, 3)) + 1e-3) / 1e5
            return self.last(torch.relu(self.hidden(spread)))

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("overflowing") / "overflowing.pt2"
    return save(Network(), (torch.zeros(1, 3, 16, 16),), path)


@pytest.mark.parametrize(("quant", "least_db"), [("fp16", 50), ("int8-weight", 40), ("int8", 30)])
def test_what_overflows_float16_is_computed_in_float32_and_named(
    overflowing: Path, tmp_path: Path, quant: str, least_db: float
) -> None:
    from coreml_quantize import Converted, make_job

    made = Converted(make_job(tmp_path, overflowing, quant, images(0, 24)))
    (note,) = (text for text in made.outcome.notes if text.startswith("Kept in float32"))
    assert "sqrt" in note
    assert made.sqnr_db(images(1, 16)) > least_db
    types = {op.name: op.outputs[0].type.dtype for op in made.program.main.block.operations if op.outputs}
    named = note.rpartition(": ")[2].split(", ")
    assert all(types[name] == "fp32" for name in named if name in types)
    assert {made.operations("sqrt")[0].outputs[0].type.dtype} == {"fp32"}
    assert {op.outputs[0].type.dtype for op in made.operations("linear")} == {"fp16"}


def test_the_same_network_without_samples_overflows(overflowing: Path, tmp_path: Path) -> None:
    from coreml_quantize import Converted, make_job

    made = Converted(make_job(tmp_path, overflowing, "fp16", None))
    assert "Kept in float32" not in made.notes
    assert not made.sqnr_db(images(1, 4)) > 20


def test_an_ordinary_network_has_nothing_in_float32(residual: Path, tmp_path: Path) -> None:
    from coreml_quantize import Converted, make_job

    made = Converted(make_job(tmp_path, residual, "fp16", images(0, 8)))
    assert "Kept in float32" not in made.notes
    computed = [op for op in made.program.main.block.operations if op.type not in ("const", "cast")]
    assert {op.outputs[0].type.dtype for op in computed} == {"fp16"}


def test_without_an_evaluator_of_an_operator_float16_is_unchecked_and_int8_refused(
    residual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coreml_quantize import Converted, make_job
    from modelport.exporters.runtimes import coreml
    from modelport.exporters.runtimes.coreml import ranges

    def lacking(program: object, rounding: bool) -> None:
        raise UnknownOperator.at("strange_1", "strange")

    monkeypatch.setattr(ranges, "Evaluator", lacking)
    made = Converted(make_job(tmp_path / "half", residual, "fp16", images(0, 4)))
    assert "Whether float16 overflows was not looked for" in made.notes
    assert "strange" in made.notes
    with pytest.raises(Unsupported, match="strange"):
        coreml.export(make_job(tmp_path / "int8", residual, "int8", images(0, 4)), lambda *_: None)
