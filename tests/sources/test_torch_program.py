"""An exported torch program is recognised and described from its archive, without torch."""

import zipfile
from pathlib import Path
from typing import Any

from modelport import sources
from modelport.sources import torch_program
from program_archive import build, node


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
