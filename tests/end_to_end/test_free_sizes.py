"""Models with free sizes beyond the batch: where the runtime fixes them, the user's data says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import modelport
from modelport.targets.errors import UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network over sounds of 100 samples and more, and sounds of 400."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(1, 8, 9, stride=4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool1d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    ).eval()
    free = ({0: torch.export.Dim("batch", max=8), 2: torch.export.Dim("time", min=100, max=4000)},)
    program = torch.export.export(model, (torch.ones(2, 1, 200),), dynamic_shapes=free)
    torch.export.save(program, folder / "sound.pt2")
    np.save(folder / "sound.npy", np.random.default_rng(0).normal(size=(40, 1, 400)).astype(np.float32))
    return folder


@pytest.mark.parametrize("target", ["android", "server-cpu"])
def test_the_length_of_the_samples_is_the_one_that_is_converted(
    sound: Path, tmp_path: Path, target: str
) -> None:
    done = modelport.convert(
        sound / "sound.pt2",
        target=target,
        quant="int8",
        calibration=str(sound / "sound.npy"),
        out=tmp_path / "out",
    )
    assert done.manifest["fidelity"]["outputs"]["output_0"]["cosine"] > 0.99
    assert done.manifest["audit"]["macs"]["int8"] > 0


def test_without_data_the_free_length_is_asked_for(sound: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="free") as caught:
        modelport.convert(sound / "sound.pt2", target="android", quant="fp16", out=tmp_path / "out")
    assert "--calibration" in caught.value.mend
    assert list(tmp_path.iterdir()) == []
