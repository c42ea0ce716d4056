"""Pruned channels go from every tensor that has them, and what stays computes what it did."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from edge_jobs import export, make_job, program
from litert_jobs import images
from modelport.exporters.litert import flatbuffer
from modelport.exporters.runtimes.tflite_micro import convert, prune
from modelport.exporters.runtimes.tflite_micro.arena import plan
from modelport.exporters.runtimes.tflite_micro.channels import Channels, separate

pytestmark = pytest.mark.slow


def network():
    """Convolutions, a residual addition, a depthwise layer, pooling, flattening and two dense layers."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
            # Without biases both get the same zeros from the converter, in one tensor.
            self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
            self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
            self.last = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 24), nn.ReLU(), nn.Linear(24, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            x = torch.relu(x + self.second(x))
            return self.last(nn.functional.max_pool2d(self.depthwise(x), 2))

    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        # Channels that do nothing: whoever prunes by magnitude takes these, and nothing is lost.
        for layer in (net.first[0], net.second):
            layer.weight[[1, 6, 11, 12]] = 0
        net.first[0].bias[[1, 6, 11, 12]] = 0
        net.first[1].bias[:] = 0
        net.last[1].weight[[3, 9, 17, 20, 21, 22]] = 0
        net.last[1].bias[[3, 9, 17, 20, 21, 22]] = 0
    return net


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("prune")
    path = program(network(), torch.randn(1, 3, 8, 8), folder / "net.pt2")
    data = {"x": np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32)}
    job = make_job(folder / "job", "torch-exported", path, "int8", data)
    found = convert.convert(job)
    return found, [{"x": value[None].transpose(0, 2, 3, 1)} for value in data["x"]]


def test_channels_that_belong_together_are_one_group(source):
    model = copy.deepcopy(source[0].model)
    separate(model)
    graph = flatbuffer.Graph(model)
    groups = sorted(Channels(graph).groups(), key=lambda group: group.size)
    # The residual ties first, second and depthwise; the five scores are the output and stay.
    assert [group.size for group in groups] == [16, 24]
    assert len(groups[0].makers) == 2
    # Flattened in NCHW, a channel is 16 places in a row.
    assert {(at.outer, at.inner) for _, at in groups[0].cuts} == {(1, 1), (1, 16)}


def test_channels_without_weights_go_first_and_nothing_is_lost(source):
    found, feeds = source
    made = prune.prune(found.model, 0.25)
    assert made is not None
    pruned, gone, total = made
    assert (gone, total) == (4 + 6, 16 + 24)
    lost = prune.loss(found.model, pruned, lambda: feeds)
    assert lost.cosine == pytest.approx(1.0, abs=1e-6)
    assert lost.top1 == 1.0


def test_more_than_those_costs_and_the_loss_says_so(source):
    found, feeds = source
    made = prune.prune(found.model, 0.5)
    assert made is not None
    assert prune.loss(found.model, made[0], lambda: feeds).cosine < 0.9999


def test_nothing_to_prune_is_said(source):
    assert prune.prune(source[0].model, 0.0) is None


def test_the_ladder_prunes_as_the_last_rung_and_writes_what_fits(digits, tmp_path):
    data = images(digits, "torch-exported", "calibration", 40)
    whole, _ = export(make_job(tmp_path / "a", "torch-exported", digits / "digits.pt2", "int8", data))
    limit = whole.data["arena"]["bytes"] - 100
    job = make_job(
        tmp_path / "b",
        "torch-exported",
        digits / "digits.pt2",
        "int8",
        data,
        fit=True,
        ram_bytes=limit,
        min_cosine=0.5,
    )
    outcome, folder = export(job)
    arena = outcome.data["arena"]
    assert arena["bytes"] == plan((folder / "model.tflite").read_bytes(), 4).needed <= limit
    (rung,) = [rung for rung in arena["rungs"] if rung["applied"]]
    assert "channels pruned" in rung["name"]
    assert "cosine" in rung["costs"]
    assert any("channels pruned" in note for note in outcome.notes)


def test_a_loss_above_the_floor_is_only_suggested(digits, tmp_path):
    data = images(digits, "torch-exported", "calibration", 40)
    job = make_job(
        tmp_path,
        "torch-exported",
        digits / "digits.pt2",
        "int8",
        data,
        fit=True,
        ram_bytes=2400,
        min_cosine=0.9999,
    )
    outcome, folder = export(job)
    (rung,) = [rung for rung in outcome.data["arena"]["rungs"] if "pruned" in rung["name"]]
    assert not rung["applied"]
    assert "train it after pruning" in rung["costs"]
    assert (
        outcome.data["arena"]["bytes"] == plan((Path(folder) / "model.tflite").read_bytes(), 4).needed > 2400
    )
