"""Samples from the user's own function, and random ones that are marked as such."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from modelport.calibration.dataset import Prepared, prepare
from modelport.calibration.samples import SampleSet
from modelport.targets.errors import UsageError
from modelport.targets.facts import IoFact

ONE = (IoFact("x", "float32", ("batch", 4)),)
TWO = (*ONE, IoFact("ids", "int64", ("batch", "sequence")))


def from_code(tmp_path: Path, body: str, inputs: tuple[IoFact, ...] = ONE, **options: object) -> Prepared:
    module = f"user_{uuid.uuid4().hex}"  # modules stay imported, so each gets a name of its own
    (tmp_path / f"{module}.py").write_text(f"import numpy as np\ndef samples():\n    {body}\n")
    before = list(sys.path)
    try:
        return prepare(f"{module}:samples", inputs, tmp_path / "out", root=tmp_path, **options)
    finally:
        assert sys.path == before


@pytest.mark.parametrize(
    "body",
    [
        "return (np.full(4, i, np.float32) for i in range(20))",
        "return [{'x': np.full((1, 4), i, np.float32)} for i in range(20)]",
        "return np.arange(20, dtype=np.float32)[:, None].repeat(4, 1)",
        "return {'x': np.arange(20, dtype=np.float32)[:, None].repeat(4, 1)}",
        "return [np.arange(a, a + 10, dtype=np.float32)[:, None].repeat(4, 1) for a in (0, 10)]",
    ],
)
def test_single_samples_and_batches_give_the_same(tmp_path: Path, body: str) -> None:
    prepared = from_code(tmp_path, body)
    assert (prepared.kind, prepared.samples, prepared.held_out) == ("function", 16, 4)
    values = [
        SampleSet.open(tmp_path / "out" / name).array("x")[:, 0] for name in ("calibration", "held_out")
    ]
    assert sorted(np.concatenate(values)) == list(range(20))


def test_an_endless_generator_is_read_up_to_the_limit(tmp_path: Path) -> None:
    body = "import itertools; return (np.full(4, i, np.float32) for i in itertools.count())"
    prepared = from_code(tmp_path, body, limit=30)
    assert prepared.samples + prepared.held_out == 30


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('no network')", "RuntimeError: no network"),
        ("return 5", "returned int"),
        ("yield {'y': np.zeros(4, np.float32)}", "item 0: no array for input 'x'; there are y"),
        (
            "yield np.zeros(5, np.float32)",
            "item 0: input x: shape (1, 5) does not fit; the model takes (batch, 4)",
        ),
        (
            "yield np.zeros(4, np.float32); yield np.zeros((2, 5), np.float32)",
            "item 1: input x: shape (2, 5)",
        ),
        ("yield 'abc'", "item 0: input x: shape"),
        ("return []", "there are no samples"),
        ("yield np.full(4, np.nan, np.float32); yield np.zeros(4, np.float32)", "sample 0 holds NaN"),
    ],
)
def test_what_goes_wrong_in_the_users_function_is_named(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_code(tmp_path, body)
    assert message in str(caught.value)


def test_inputs_of_different_sample_counts_are_refused(tmp_path: Path) -> None:
    body = "yield {'x': np.zeros((3, 4), np.float32), 'ids': np.zeros((2, 5), np.int64)}"
    with pytest.raises(UsageError, match="different numbers of samples"):
        from_code(tmp_path, body, TWO)


def test_samples_of_changing_shape_are_refused_by_item(tmp_path: Path) -> None:
    body = "yield from ({'x': np.zeros(4, np.float32), 'ids': np.ones(3 + i, np.int64)} for i in range(9))"
    with pytest.raises(
        UsageError, match=r"item 1: input ids: shape \(4,\), and the samples before have \(3,\)"
    ):
        from_code(tmp_path, body, TWO)


def test_a_missing_module_or_function_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no module 'nowhere_at_all' in the current folder"):
        prepare("nowhere_at_all:samples", ONE, tmp_path / "out", root=tmp_path)
    with pytest.raises(UsageError, match="no function 'samples'"):
        prepare("json:samples", ONE, tmp_path / "out", root=tmp_path)


def test_random_data_is_marked_and_reproducible(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 50}))
    inputs = tuple(IoFact(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
    first, again, other = (
        prepare("random", inputs, tmp_path / str(n), model_dir=tmp_path, seed=n // 2, sequence=20)
        for n in range(3)
    )
    assert first.random
    assert any("random" in text for text in first.warnings)
    assert (first.samples, first.held_out, first.sequence) == (256, 64, 20)
    assert first.sha256 == again.sha256 != other.sha256
    ids = SampleSet.open(tmp_path / "0" / "calibration").array("input_ids")
    assert (ids.min(), ids.max()) == (0, 49)
    assert SampleSet.open(tmp_path / "0" / "calibration").array("attention_mask").all()


def test_random_floats_are_normal_and_free_image_sizes_come_from_the_model(tmp_path: Path) -> None:
    free = (IoFact("x", "float32", ("batch", 3, "height", "width")),)
    with pytest.raises(UsageError, match="input x: the sizes of shape"):
        prepare("random", free, tmp_path / "a", model_dir=tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 10, "width": 12}}))
    prepare("random", free, tmp_path / "b", model_dir=tmp_path)
    values = SampleSet.open(tmp_path / "b" / "calibration").array("x")
    assert values.shape == (256, 3, 10, 12)
    assert float(values.std()) == pytest.approx(1, abs=0.02)
