"""What LiteRT cannot convert is refused by name: a scheme, an operator, missing data, weights that are not finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from litert_jobs import export, make_job
from modelport.sources.loading.reference import load_reference
from modelport.targets.errors import SourceUnreadable, Unsupported, UsageError

pytestmark = pytest.mark.slow


def test_int4_on_a_convolutional_network_is_refused_by_name(digits: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, "keras", digits / "digits.keras", "int4-weight")
    with pytest.raises(Unsupported, match=r"CONV_2D.*int8-weight"):
        export(job)
    assert list((tmp_path / "staging").iterdir()) == []


def test_an_operator_that_litert_lacks_is_named(tmp_path: Path) -> None:
    import keras
    import torch

    class Inverse(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.erfinv(x)

    torch.export.save(torch.export.export(Inverse(), (torch.rand(1, 4),)), tmp_path / "erfinv.pt2")
    x = keras.Input((8,), name="x")
    keras.Model(x, keras.ops.erfinv(x)).save(tmp_path / "erfinv.keras")
    with pytest.raises(Unsupported, match=r"no LiteRT form of aten\.erfinv"):
        export(make_job(tmp_path / "a", "torch-exported", tmp_path / "erfinv.pt2", "fp32"))
    with pytest.raises(Unsupported, match=r"no LiteRT form of tf\.Erfinv"):
        export(make_job(tmp_path / "b", "keras", tmp_path / "erfinv.keras", "fp32"))


def test_static_int8_without_data_says_how_to_give_it(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--calibration"):
        export(make_job(tmp_path, "keras", digits / "digits.keras", "int8"))


def test_weights_that_are_not_finite_are_refused_by_name(digits: Path, tmp_path: Path) -> None:
    import keras

    model = keras.models.load_model(digits / "digits.keras")
    kernel, bias = model.get_layer("logits").get_weights()
    kernel[0, 0] = np.nan
    model.get_layer("logits").set_weights([kernel, bias])
    model.save(tmp_path / "bad.keras")
    model.export(tmp_path / "bad_saved", verbose=False)
    with pytest.raises(SourceUnreadable, match="logits/kernel"):
        load_reference("keras", tmp_path / "bad.keras", {})
    with pytest.raises(SourceUnreadable, match="kernel"):
        load_reference("saved-model", tmp_path / "bad_saved", {})
