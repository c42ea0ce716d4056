"""What the exporter for microcontrollers writes: integers throughout, every buffer inside, C++ that checks itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import edge_headers
from edge_jobs import export, make_job, program
from litert_jobs import SOURCES, images
from modelport.exporters.litert import flatbuffer
from modelport.exporters.runtimes.tflite_micro import operators
from modelport.exporters.runtimes.tflite_micro.arena import plan
from modelport.targets.errors import Unsupported
from modelport.verification import runners

pytestmark = pytest.mark.slow
CASES = [
    ("torch-exported", "int8"),
    ("saved-model", "int8"),
    ("keras", "int8"),
    ("torch-exported", "int16x8"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory, digits):
    """Each case exported once: (outcome, folder, job)."""
    found = {}
    for kind, quant in CASES:
        folder = tmp_path_factory.mktemp(f"{kind}-{quant}")
        job = make_job(
            folder, kind, digits / SOURCES[kind], quant, images(digits, kind, "calibration", 40), fit=True
        )
        found[kind, quant] = (*export(job), job)
    return found


def raw_model(path: Path):
    """The file as it lies there, nothing resolved."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_no_buffer_lies_outside_the_flatbuffer(made, case):
    model = raw_model(made[case][1] / "model.tflite")
    assert all(not buffer.offset and not buffer.size for buffer in model.buffers)
    held = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    # The digits CNN has 25,642 weights; not one of them is missing.
    assert held >= 25_000
    assert model.metadata in (None, [])


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_integers_throughout_and_only_registered_operators(made, case):
    model = flatbuffer.read((made[case][1] / "model.tflite").read_bytes())
    graph = flatbuffer.Graph(model)
    assert not any(graph.is_float(t) for t in range(len(graph.subgraph.tensors)))
    assert {op.kind for op in graph.ops} <= operators.registered().allowed[case[1]]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_cpp_compiles_and_holds_the_file(made, case, tmp_path):
    folder = made[case][1]
    kinds = {op.kind for op in flatbuffer.Graph(flatbuffer.read((folder / "model.tflite").read_bytes())).ops}
    edge_headers.write(tmp_path, operators.methods(kinds))
    if shutil.which("g++"):
        assert edge_headers.compile_all(folder, tmp_path) == ""
    held = edge_headers.array_bytes((folder / "model_data.cc").read_text())
    assert held == (folder / "model.tflite").read_bytes()


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_sample_is_what_the_reference_kernels_compute(made, case, digits):
    outcome, folder, _ = made[case]
    data = images(digits, case[0], "calibration", 1)["image"]
    runner = runners.load(folder / "model.tflite", "tflite_reference")
    given = data.transpose(0, 2, 3, 1) if outcome.inputs[0].permutation else data
    scores = next(iter(runner.run({"image": given}).values()))
    text = (folder / "sample.h").read_text()
    held = text.split("kOutput0[] = {", 1)[1].split("};", 1)[0]
    integers = np.array([int(part) for part in held.replace(",", " ").split()])
    scale, zero = _quantization(text)
    assert np.allclose((integers - zero) * scale, scores.reshape(-1), rtol=1e-6)


def _quantization(text: str) -> tuple[float, int]:
    line = next(line for line in text.splitlines() if line.startswith("// output"))
    inside = line.split("(integer ", 1)[1]
    sign, zero = inside[0], inside[2:].split(")")[0]
    return float(line.rsplit("* ", 1)[1]), int(zero) * (1 if sign == "-" else -1)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_it_computes_what_the_source_computes(made, case, digits):
    from modelport.exporters.ports import to_artifact, to_source
    from modelport.sources.loading.reference import load_reference
    from modelport.verification.fidelity import sqnr_db

    outcome, folder, job = made[case]
    reference = load_reference(job.source_kind, Path(job.source_path), job.options)
    runner = runners.load(folder / "model.tflite", "tflite_reference")
    wanted, actual = [], []
    for image in images(digits, case[0], "held_out", 40)["image"]:
        feed = {"image": image[None]}
        wanted += list(reference(feed).values())
        actual += list(to_source(runner.run(to_artifact(feed, outcome.inputs)), outcome.outputs).values())
    least = 30 if case[1] == "int8" else 40
    assert sqnr_db(np.concatenate(wanted), np.concatenate(actual)) > least


def test_the_arena_in_the_header_is_the_plan_of_the_file(made):
    outcome, folder, _ = made["torch-exported", "int8"]
    data = (folder / "model.tflite").read_bytes()
    assert f"? {plan(data, 4).needed} : {plan(data, 8).needed};" in (folder / "arena.h").read_text()
    assert outcome.data["arena"]["bytes"] == plan(data, 4).needed
    assert set(outcome.data["beside"]) == set(outcome.files[1:])


def test_the_same_job_writes_the_same_bytes(made, tmp_path, digits):
    _, folder, job = made["keras", "int8"]
    again = make_job(
        tmp_path, "keras", Path(job.source_path), "int8", images(digits, "keras", "calibration", 40), fit=True
    )
    _, other = export(again)
    for path in folder.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_what_has_no_integer_form_is_refused_by_name(tmp_path):
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    path = program(net, torch.randn(1, 8), tmp_path / "gelu.pt2")
    values = {"input": np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)}
    job = make_job(tmp_path / "job", "torch-exported", path, "int8", values)
    with pytest.raises(Unsupported, match=r"GELU|ERF|COMPOSITE") as refused:
        export(job)
    assert "TensorFlow Lite Micro" in str(refused.value)
    assert not list(Path(job.staging).iterdir())


def test_branches_are_reordered_for_a_lower_peak(tmp_path):
    import torch

    class Branches(torch.nn.Module):
        """Two wide convolutions, both alive before either is pooled."""

        def __init__(self) -> None:
            super().__init__()
            self.left = torch.nn.Conv2d(3, 32, 3, padding=1)
            self.right = torch.nn.Conv2d(3, 32, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.left(x), self.right(x)
            pool = torch.nn.functional.max_pool2d
            return torch.cat([pool(left, 4), pool(right, 4)], 1).mean((2, 3))

    torch.manual_seed(0)
    path = program(Branches(), torch.randn(1, 3, 16, 16), tmp_path / "branches.pt2")
    values = {"x": np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)}
    plain, plain_folder = export(make_job(tmp_path / "plain", "torch-exported", path, "int8", values))
    fitted, folder = export(make_job(tmp_path / "fit", "torch-exported", path, "int8", values, fit=True))
    (rung,) = [r for r in fitted.data["arena"]["rungs"] if r["applied"]]
    before, after = plain.data["arena"]["bytes"], fitted.data["arena"]["bytes"]
    assert rung["saves_bytes"] == before - after > 7000
    feed = {"x": values["x"][:1].transpose(0, 2, 3, 1)}
    outputs = [
        next(iter(runners.load(where / "model.tflite", "tflite_reference").run(feed).values()))
        for where in (plain_folder, folder)
    ]
    assert np.array_equal(*outputs)


def test_what_does_not_fit_gets_every_rung_with_what_it_saves_and_costs(made, tmp_path, digits):
    _, _, job = made["torch-exported", "int8"]
    small = make_job(
        tmp_path, "torch-exported", Path(job.source_path), "int8",
        images(digits, "torch-exported", "calibration", 10), fit=True, ram_bytes=3400, min_cosine=1.0,
    )  # fmt: skip
    outcome, _ = export(small)
    rungs = outcome.data["arena"]["rungs"]
    assert any("patch by patch" in rung["name"] for rung in rungs)
    assert any("of the channels" in rung["name"] for rung in rungs)
    assert any("channels pruned" in rung["name"] and "cosine" in rung["costs"] for rung in rungs)
    for rung in rungs:
        assert rung["costs"]
        assert rung["applied"] or rung["saves_bytes"] == 0 or rung["arena_bytes"] <= 3400


def test_an_offline_plan_is_in_the_file_and_keeps_its_results(made, tmp_path, digits):
    _, folder, job = made["torch-exported", "int8"]
    data = images(digits, "torch-exported", "calibration", 40)
    planned = make_job(
        tmp_path, "torch-exported", Path(job.source_path), "int8", data, fit=True, offline_plan=True
    )
    outcome, other = export(planned)
    raw = (other / "model.tflite").read_bytes()
    assert b"OfflineMemoryAllocation" in raw
    before, after = plan((folder / "model.tflite").read_bytes(), 4), plan(raw, 4)
    assert after.head == before.head
    assert {b.offset for b in after.buffers} == {b.offset for b in before.buffers}
    assert outcome.data["arena"]["bytes"] == after.needed
    assert (other / "sample.h").read_text() == (folder / "sample.h").read_text()
