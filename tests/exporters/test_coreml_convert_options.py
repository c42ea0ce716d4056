"""What a user asks of a Core ML package, read from text without any framework."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.exporters.runtimes.coreml import options
from modelport.targets.errors import Unsupported, UsageError

SIZES = st.integers(1, options.LONGEST_RANGE)
AXES = st.one_of(SIZES, st.tuples(SIZES, SIZES).map(lambda ends: (min(ends), max(ends))))


def text(axis: int | tuple[int, int]) -> str:
    return str(axis) if isinstance(axis, int) else f"{axis[0]}..{axis[1]}"


@given(st.lists(AXES, min_size=1, max_size=5))
def test_ranges_come_back_as_they_were_written(axes: list[int | tuple[int, int]]) -> None:
    expected = tuple(axis[0] if isinstance(axis, tuple) and axis[0] == axis[1] else axis for axis in axes)
    assert options.read_shapes("x=" + "x".join(map(text, axes))) == {"x": (expected,)}


@given(st.lists(st.lists(SIZES, min_size=2, max_size=2), min_size=1, max_size=4, unique_by=tuple))
def test_listed_shapes_come_back_as_they_were_written(shapes: list[list[int]]) -> None:
    written = "|".join("x".join(map(str, shape)) for shape in shapes)
    found = options.read_shapes(f"ids={written}; mask=1x2")
    assert found == {"ids": tuple(map(tuple, shapes)), "mask": ((1, 2),)}


@pytest.mark.parametrize(
    "shapes",
    [
        "x",
        "=1",
        "x=",
        "x=0",
        "x=1x",
        "x=2..1",
        "x=1;x=2",
        "x=1|1x2",
        "x=1..2|3",
        "x=-1",
        "x=999999999",
        "x=1..9999999",
    ],
)
def test_shapes_that_make_no_sense_are_refused_by_the_option_s_name(shapes: str) -> None:
    with pytest.raises(UsageError, match="--shapes"):
        options.read_shapes(shapes)


def test_an_image_has_scale_and_bias_by_channel_or_once_for_all() -> None:
    assert options.read_image("") == options.Image((1.0,), (0.0,))
    assert options.read_image("scale=0.5,bias=-1:-2:-3") == options.Image((0.5,), (-1.0, -2.0, -3.0))


@pytest.mark.parametrize(
    "image", ["scale=", "scale=a", "scale=nan", "scale=0", "gain=1", "bias=1:2", "scale=1,scale=2"]
)
def test_an_image_that_makes_no_sense_is_refused(image: str) -> None:
    with pytest.raises(UsageError, match="--image-input"):
        options.read_image(image)


@pytest.mark.parametrize(
    ("scheme", "target"),
    [
        ("fp32", "iOS17"),
        ("fp16", "iOS17"),
        ("int8", "iOS17"),
        ("int4-weight", "iOS18"),
        ("palette4", "iOS17"),
    ],
)
def test_without_a_deployment_target_the_scheme_decides(scheme: str, target: str) -> None:
    assert options.read({}, scheme).target == target


@pytest.mark.parametrize(
    ("scheme", "target"),
    [("int4-weight", "iOS17"), ("int8", "iOS16"), ("int8-weight", "ios15"), ("palette2", "iOS15")],
)
def test_a_deployment_target_that_cannot_hold_the_scheme_is_refused(scheme: str, target: str) -> None:
    with pytest.raises(Unsupported, match=f"{scheme} needs iOS"):
        options.read({"deployment_target": target}, scheme)


def test_names_are_known_in_any_case_and_typos_are_told_what_is() -> None:
    asked = options.read({"deployment_target": "ios16", "compute_units": "CPUONLY"}, "fp16")
    assert (asked.target, asked.compute_units) == ("iOS16", "cpuOnly")
    with pytest.raises(UsageError, match="iOS15, iOS16, iOS17, iOS18"):
        options.read({"deployment_target": "iOS99"}, "fp16")
    with pytest.raises(UsageError, match="cpuAndNeuralEngine"):
        options.read({"compute_units": "gpu"}, "fp16")


def test_metadata_is_read_pair_by_pair() -> None:
    found = options.read({"metadata": ["author=Ada", "license=MIT=X", "version=1"]}, "fp16").metadata
    assert found == {"author": "Ada", "licence": "MIT=X", "version": "1"}
    for wrong in ("owner=Ada", "author"):
        with pytest.raises(UsageError, match="--metadata"):
            options.read({"metadata": [wrong]}, "fp16")


def test_labels_stand_in_a_file_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog \n\n")
    assert options.read({"labels": str(file)}, "fp16").labels == ("cat", "dog ")
    for content in ("", "cat\ncat\n", "cat\n\ndog\n", "cat\n\udcff"):
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(UsageError, match=r"labels\.txt"):
            options.read({"labels": str(file)}, "fp16")
    with pytest.raises(UsageError, match="not readable"):
        options.read({"labels": str(tmp_path / "none.txt")}, "fp16")
