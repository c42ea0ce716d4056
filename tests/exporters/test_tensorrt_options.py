"""What a user can ask of a TensorRT build, on disk and as a trtexec line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from modelport.exporters.runtimes.tensorrt import build_file, options
from modelport.exporters.runtimes.tensorrt.options import HARDWARE, Profile, Settings
from modelport.targets.errors import SourceUnreadable, UsageError

axes = st.lists(st.integers(1, 1 << 20), min_size=3, max_size=3).map(sorted)
ranges = st.lists(axes, min_size=1, max_size=5).map(lambda sizes: Profile(*zip(*sizes, strict=True)))
text = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
settings = st.builds(
    Settings,
    profiles=st.dictionaries(text, ranges, max_size=3),
    workspace_bytes=st.none() | st.integers(1, 1 << 40),
    timing_cache=st.none() | text,
    version_compatible=st.booleans(),
    hardware_compatible=st.sampled_from(HARDWARE),
    level=st.integers(0, 5),
)


@hypothesis_settings(deadline=None)
@given(settings)
def test_build_toml_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, one: Settings
) -> None:
    path = tmp_path_factory.mktemp("build") / build_file.NAME
    path.write_text(build_file.to_toml(one), encoding="utf-8")
    assert build_file.from_toml(path) == one


@pytest.mark.parametrize("wrong", ["", "optimization_level = ", "profile = 3", "[profile.x]\nleast = [1]"])
def test_a_damaged_build_toml_is_one_error_that_names_it(wrong: str, tmp_path: Path) -> None:
    (tmp_path / build_file.NAME).write_text(wrong)
    with pytest.raises(SourceUnreadable, match=r"build\.toml"):
        build_file.from_toml(tmp_path / build_file.NAME)


def test_shapes_are_least_best_and_most() -> None:
    found = options.read_shapes("ids=1x1..1x128..8x512; mask=1x1..8x512; image=1x3x8x8")
    assert found["ids"] == Profile((1, 1), (1, 128), (8, 512))
    assert found["mask"] == Profile((1, 1), (8, 512), (8, 512))
    assert found["image"] == Profile((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("ids", "once"), ("=1x1", "once"), ("ids=1x1;ids=1x2", "once"), ("ids=1..2..3..4", "once"),
        ("ids=1x1..2", "number of axes"), ("ids=2x1..1x1", "between"), ("ids=1x1..3x3..2x4", "between"),
        ("ids=0x1", "not a shape"), ("ids=1xa", "not a shape"), ("ids=1x9999999", "not a shape"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_refused_by_input(given: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        options.read_shapes(given)
    assert caught.value.where.startswith("--shapes")


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"builder_level": 6}, "--builder-level"),
        ({"hardware_compatible": "hopper"}, "--hardware-compatible"),
        ({"timing_cache": "a\nb"}, "--timing-cache"),
        ({"shapes": "x"}, "--shapes"),
    ],
)
def test_a_wrong_option_names_itself(given: dict[str, object], where: str) -> None:
    with pytest.raises(UsageError) as caught:
        options.read(given, "fp16")
    assert caught.value.where.startswith(where)


def test_free_axes_get_profiles_of_their_own() -> None:
    inputs = {"ids": ("batch", "tokens"), "image": ("batch", 3, 8, 8), "fixed": (1, 4)}
    found = options.profiles(inputs, {}, sequence=128, longest=512)
    assert found == {
        "ids": Profile((1, 1), (1, 128), (8, 512)),
        "image": Profile((1, 3, 8, 8), (1, 3, 8, 8), (8, 3, 8, 8)),
    }


def test_an_axis_of_unknown_size_must_be_given() -> None:
    with pytest.raises(UsageError, match="axis 2 of input 'image' is free") as caught:
        options.profiles({"image": ("batch", 3, "height", "width")}, {}, sequence=1, longest=1)
    assert "image=1x1x1x1..8x8x8x8" in caught.value.mend


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"other": Profile((1,), (1,), (1,))}, "no input other"),
        ({"ids": Profile((1,), (1,), (1,))}, "2 axes, not 1"),
        ({"ids": Profile((1, 4), (1, 8), (1, 8))}, "axis 1 is 4 in the model"),
    ],
)
def test_shapes_that_do_not_fit_the_model_are_refused(asked: dict[str, Profile], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        options.profiles({"ids": ("batch", 4)}, asked, sequence=1, longest=1)


def test_the_trtexec_line_says_every_setting() -> None:
    asked = Settings(
        {"ids": Profile((1, 1), (1, 128), (8, 512)), "mask": Profile((1, 1), (1, 64), (8, 512))},
        workspace_bytes=2 << 30, timing_cache="timing.cache", version_compatible=True,
        hardware_compatible="ampere-plus", level=5,
    )  # fmt: skip
    assert build_file.trtexec(asked, "model.onnx", "model.engine").split() == [
        "trtexec", "--onnx=model.onnx", "--saveEngine=model.engine", "--stronglyTyped",
        "--minShapes=ids:1x1,mask:1x1", "--optShapes=ids:1x128,mask:1x64", "--maxShapes=ids:8x512,mask:8x512",
        "--builderOptimizationLevel=5", "--memPoolSize=workspace:2048M", "--timingCacheFile=timing.cache",
        "--versionCompatible", "--hardwareCompatibilityLevel=ampere+",
    ]  # fmt: skip
    assert "Shapes" not in build_file.trtexec(Settings(), "model.onnx", "model.engine")
