"""`.npz` and `.npy` samples are read by the model's names, checked first, and split without overlap."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelport.calibration.dataset import Prepared, prepare
from modelport.calibration.samples import SampleSet
from modelport.targets.errors import Unsupported, UsageError
from modelport.targets.facts import IoFact

IMAGE = (IoFact("x", "float32", ("batch", 3, 8, 8)),)
TOKENS = tuple(IoFact(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))


def images(count: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


def both(folder: Path) -> tuple[SampleSet, SampleSet]:
    return SampleSet.open(folder / "calibration"), SampleSet.open(folder / "held_out")


def ready(
    tmp_path: Path, out: str = "out", inputs: tuple[IoFact, ...] = IMAGE, **options: object
) -> Prepared:
    return prepare("data.npz", inputs, tmp_path / out, root=tmp_path, **options)


def test_every_sample_lands_in_exactly_one_set_with_its_label(tmp_path: Path) -> None:
    data = images()
    np.savez(tmp_path / "data.npz", x=data, labels=np.arange(50))
    prepared = ready(tmp_path)
    kept, held = both(tmp_path / "out")
    assert (prepared.samples, prepared.held_out, kept.count, held.count) == (40, 10, 40, 10)
    assert prepared.labels
    seen = []
    for each in (kept, held):
        assert each.labels is not None
        np.testing.assert_array_equal(each.array("x"), data[each.labels])
        seen += list(each.labels)
    assert sorted(seen) == list(range(50))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=images())
    first, again = ready(tmp_path, "a"), ready(tmp_path, "b")
    assert first == again
    for name in ("calibration/input_0.npy", "held_out/input_0.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert ready(tmp_path, "c", seed=1).sha256 != first.sha256


def test_the_split_does_not_depend_on_the_order_in_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=images())
    first = ready(tmp_path, "a")
    np.savez(tmp_path / "data.npz", x=images()[::-1])
    assert ready(tmp_path, "b").sha256 == first.sha256


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(0, 2**31))
def test_copies_never_stand_on_both_sides(tmp_path: Path, numbers: list[int], seed: int) -> None:
    name = f"{len(list(tmp_path.iterdir()))}"
    np.save(tmp_path / f"{name}.npy", np.array(numbers, np.float32)[:, None])
    inputs = (IoFact("x", "float32", (None, 1)),)
    if len(set(numbers)) < 2:
        with pytest.raises(UsageError, match=r"are the same|only one sample"):
            prepare(f"{name}.npy", inputs, tmp_path / name, root=tmp_path, seed=seed)
        return
    prepare(f"{name}.npy", inputs, tmp_path / name, root=tmp_path, seed=seed)
    kept, held = (each.array("x")[:, 0].tolist() for each in both(tmp_path / name))
    assert kept
    assert held
    assert not set(kept) & set(held)
    assert len(set(held)) == len(held)
    assert set(kept) | set(held) == set(numbers)


def test_the_limit_draws_samples_and_held_out_says_how_many_verify(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", x=images(400), y=np.arange(400))
    prepared = ready(tmp_path, limit=100, held_out=30)
    kept, held = both(tmp_path / "out")
    assert (prepared.samples, prepared.held_out) == (70, 30)
    assert kept.labels is not None
    assert held.labels is not None
    assert max(kept.labels) > 300
    np.testing.assert_array_equal(held.array("x"), images(400)[held.labels])
    assert ready(tmp_path, "default").samples == 256
    with pytest.raises(UsageError, match="none to calibrate with"):
        ready(tmp_path, "all", limit=30, held_out=30)


def test_the_result_is_json(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=images())
    raw = json.loads(json.dumps(dataclasses.asdict(ready(tmp_path))))
    assert raw["kind"] == "arrays"
    assert len(raw["sha256"]) == 64


def test_no_scratch_file_stays_behind(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=images())
    ready(tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["calibration", "held_out"]


def test_fortran_order_and_big_endian_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=images())
    first = ready(tmp_path, "a")
    np.savez(tmp_path / "data.npz", x=np.asfortranarray(images()).astype(">f4"))
    assert ready(tmp_path, "b").sha256 == first.sha256


def test_a_single_input_takes_an_array_of_any_name_and_a_bare_npy(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", arr_0=images())
    first = ready(tmp_path, "a")
    np.save(tmp_path / "data.npy", images())
    assert prepare("data.npy", IMAGE, tmp_path / "b", root=tmp_path).sha256 == first.sha256


def test_right_padded_masks_give_lengths_and_trimmed_feeds(tmp_path: Path) -> None:
    lengths = np.arange(40) % 7 + 2
    mask = (np.arange(9) < lengths[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(5, 99, (40, 9)) * mask
    np.savez(tmp_path / "data.npz", input_ids=ids, attention_mask=mask, extra=ids)
    prepared = ready(tmp_path, inputs=TOKENS)
    assert prepared.sequence == 9
    assert any("extra is no input" in text for text in prepared.warnings)
    kept, _ = both(tmp_path / "out")
    for feed in kept.feeds(trim=True):
        assert feed["attention_mask"].all()
        assert feed["input_ids"].shape == feed["attention_mask"].shape


def test_left_padded_masks_give_no_lengths(tmp_path: Path) -> None:
    mask = (np.arange(9)[::-1] < (np.arange(40) % 7 + 2)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(5, 99, (40, 9)) * mask
    np.savez(tmp_path / "data.npz", input_ids=ids, attention_mask=mask)
    ready(tmp_path, inputs=TOKENS)
    assert both(tmp_path / "out")[0].lengths is None


def test_int32_and_bool_are_cast_and_overflow_is_named(tmp_path: Path) -> None:
    inputs = (IoFact("ids", "int32", (1, 4)), IoFact("mask", "bool", (1, 4)))
    ids = np.random.default_rng(0).integers(0, 9, (20, 4))
    np.savez(tmp_path / "data.npz", ids=ids, mask=np.ones((20, 4), bool))
    ready(tmp_path, inputs=inputs)
    assert both(tmp_path / "out")[0].array("ids").dtype == np.int32
    ids[7, 2] = 2**40
    np.savez(tmp_path / "data.npz", ids=ids, mask=np.ones((20, 4), bool))
    with pytest.raises(UsageError, match=r"sample 7: input ids: .*1099511627776 do not fit int32"):
        ready(tmp_path, "b", inputs=inputs)


def error_of(tmp_path: Path, inputs: tuple[IoFact, ...] = IMAGE, **arrays: np.ndarray) -> str:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UsageError) as caught:
        ready(tmp_path, inputs=inputs)
    return str(caught.value)


def test_a_missing_key_is_named_with_those_that_exist(tmp_path: Path) -> None:
    text = error_of(tmp_path, TOKENS, input_ids=np.ones((9, 4), np.int64), mask=np.ones((9, 4), np.int64))
    assert "no array for input 'attention_mask'" in text
    assert "input_ids, mask" in text


def test_counts_that_differ_and_labels_that_are_no_classes_are_named(tmp_path: Path) -> None:
    ids = np.ones((9, 4), np.int64)
    assert "8 samples" in error_of(tmp_path, TOKENS, input_ids=ids, attention_mask=ids[:8])
    assert "labels.npy" in error_of(tmp_path, x=images(9), labels=np.eye(9))
    assert "labels.npy: 8 samples" in error_of(tmp_path, x=images(9), labels=np.arange(8))


def test_object_arrays_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("it ran",))

    objects = np.empty(3, object)
    objects[0] = Bomb()
    assert "never executed" in error_of(tmp_path, x=objects)
    assert "data.npz: x.npy" in error_of(tmp_path, x=objects)


@pytest.mark.parametrize("dtype", ["U4", "complex64", [("a", "f4")], "datetime64[s]"])
def test_dtypes_that_hold_no_numbers_are_refused(tmp_path: Path, dtype: Any) -> None:
    assert "does not hold numbers" in error_of(tmp_path, x=np.zeros((4, 3, 8, 8), dtype))


def header(shape: object, length: int = 0) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(length)


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    for shape, length in (((2**40, 3, 8, 8), 768), ((4, 3, 8, 8), 10), ((2**70, 3, 8, 8), 0)):
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
            archive.writestr("x.npy", header(shape, length))
        with pytest.raises(UsageError, match=r"needs .* bytes, and"):
            ready(tmp_path)
        (tmp_path / "data.npy").write_bytes(header(shape, length))
        with pytest.raises(UsageError, match=r"data.npy: .*needs .* bytes, and"):
            prepare("data.npy", IMAGE, tmp_path / "o", root=tmp_path)


@pytest.mark.parametrize(
    "text",
    [b"\0\0\0", b"{'a': (((", b"{'descr': '<f4'}", b"[" * 5000, b"  x\n y", b'"""', b"\xff", b"1", b""],
)
def test_a_header_that_is_no_header_is_one_clear_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "data.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(UsageError, match=r"data.npy: not a numpy array"):
        prepare("data.npy", IMAGE, tmp_path / "o", root=tmp_path)


def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header((100_000, 3, 8, 8), 100_000 * 768))
    with pytest.raises(UsageError, match="inflates to"):
        ready(tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_give_one_clear_error(tmp_path: Path, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=images(6))
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "data.npz").write_bytes(raw[: data.draw(st.integers(5, len(raw)))])
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    message = "data.npz"
    with contextlib.suppress(UsageError):  # a change may hit a byte that says nothing
        try:
            ready(tmp_path)
        except UsageError as error:
            message = str(error)
            raise
    assert "data.npz" in message


def test_a_fixed_batch_is_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=images())
    with pytest.raises(Unsupported, match=r"input x: .*batch axis"):
        ready(tmp_path, inputs=(IoFact("x", "float32", (4, 3, 8, 8)),))


def test_unknown_data_names_what_is_taken(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    for data in ("data.csv", "nowhere", "nowhere.npz"):
        with pytest.raises(UsageError, match=r"\.npz, \.npy, a folder of images"):
            prepare(data, IMAGE, tmp_path / "out", root=tmp_path)


def test_a_recipe_beside_arrays_is_not_silently_ignored(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=images())
    (tmp_path / "data.npz.toml").write_text("scale = 1.0")
    with pytest.raises(UsageError, match=r"data\.npz\.toml"):
        ready(tmp_path)


def test_arrays_bring_their_own_length_where_the_user_named_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", input_ids=np.arange(54).reshape(9, 6))
    ids = TOKENS[:1]
    assert ready(tmp_path, inputs=ids, assumed_sequence=128).sequence == 6
    with pytest.raises(UsageError, match="does not fit"):
        ready(tmp_path, "other", inputs=ids, sequence=128)
    noise = prepare("random", ids, tmp_path / "noise", root=tmp_path, assumed_sequence=12)
    assert noise.sequence == 12
