"""Folders of images go through one recipe, from the model, from the user, or assumed and said so."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelport.calibration.dataset import Prepared, prepare
from modelport.calibration.preprocess import Preprocessing, from_toml
from modelport.calibration.preprocessor_config import parse
from modelport.calibration.samples import SampleSet
from modelport.targets.errors import SourceUnreadable, UsageError
from modelport.targets.facts import IoFact

RGB = (IoFact("pixel_values", "float32", ("batch", 3, 16, 16)),)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(20):
        pixels = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    return tmp_path / "photos"


def ready(photos: Path, inputs: tuple[IoFact, ...] = RGB, **options: object) -> Prepared:
    out = photos.parent / f"out{len(list(photos.parent.iterdir()))}"
    ready.out = out  # type: ignore[attr-defined]
    return prepare(photos.name, inputs, out, root=photos.parent, **options)


def written(name: str = "calibration") -> SampleSet:
    return SampleSet.open(ready.out / name)  # type: ignore[attr-defined]


def test_without_a_recipe_the_assumed_one_is_stated(photos: Path) -> None:
    prepared = ready(photos)
    assert any("assumed to be rgb, resized to (16, 16), scaled to 0..1" in text for text in prepared.warnings)
    assert prepared.preprocessing is not None
    assert prepared.preprocessing["origin"] == "assumed"
    values = written().array("pixel_values")
    assert values.shape == (16, 3, 16, 16)
    assert 0 <= values.min() < values.max() <= 1


def test_the_models_own_recipe_is_applied(photos: Path, tmp_path: Path) -> None:
    own = {"do_resize": True, "size": {"height": 16, "width": 16}, "resample": 2, "do_rescale": True,
           "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
           "image_std": [0.2, 0.3, 0.4]}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(own))
    prepared = ready(photos, model_dir=tmp_path)
    assert prepared.warnings == ()
    expected = []
    for path in sorted(photos.iterdir()):
        pixels = np.asarray(Image.open(path).resize((16, 16), Image.Resampling.BILINEAR), np.float64) / 255
        expected.append(((pixels - own["image_mean"]) / own["image_std"]).transpose(2, 0, 1))
    got = np.concatenate([written(name).array("pixel_values") for name in ("calibration", "held_out")])
    order = [int(np.abs(np.stack(expected) - sample).sum(axis=(1, 2, 3)).argmin()) for sample in got]
    assert sorted(order) == list(range(20))
    np.testing.assert_allclose(got, np.stack(expected)[order], atol=2e-6)


@pytest.mark.parametrize("beside", [False, True])
def test_a_toml_wins_over_the_models_recipe(photos: Path, tmp_path: Path, beside: bool) -> None:
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": 32, "image_mean": [0], "image_std": [1]})
    )
    place = tmp_path / "photos.toml" if beside else photos / "preprocess.toml"
    place.write_text('resize = 20\ncenter_crop = 16\nscale = 1.0\nchannels = "bgr"\nlayout = "nchw"\n')
    prepared = ready(photos, model_dir=tmp_path)
    assert prepared.preprocessing is not None
    assert prepared.preprocessing["origin"] == place.name
    assert any("asks for rgb" in text for text in prepared.warnings)
    first = np.asarray(Image.open(photos / "00.png").resize((30, 20), Image.Resampling.BILINEAR))
    expected = first[2:18, 7:23, ::-1].transpose(2, 0, 1)
    sets = [written(name).array("pixel_values") for name in ("calibration", "held_out")]
    assert any(np.array_equal(sample, expected) for samples in sets for sample in samples)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("size = 3", "p.toml: size"),
        ("resize = [1, 2, 3]", "p.toml: resize"),
        ("resize = true", "p.toml: resize"),
        ("resize = 100000", "p.toml: resize"),
        ('resample = "best"', "p.toml: resample"),
        ("scale = 0", "p.toml: scale"),
        ('mean = ["a"]', "p.toml: mean"),
        ("mean = [1, 2]", "p.toml: mean"),
        ('channels = "gray"\nstd = [1.0, 1.0, 1.0]', "p.toml: std"),
        ("std = 0.0", "p.toml: std"),
        ('layout = "chw"', "p.toml: layout"),
        ("layout = []", "p.toml: layout"),
        ('dtype = "uint8"\nmean = 0.5', "p.toml: dtype"),
        ("scale = ", "p.toml: not readable as TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, place: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        from_toml(tmp_path / "p.toml")
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"size": "big"}, "size"),
        ({"size": {"longest_edge": 5}}, "size"),
        ({"size": {"height": -1, "width": 4}}, "size"),
        ({"size": 8, "image_mean": "x"}, "image_mean"),
        ({"size": 8, "image_mean": [0.5], "image_std": [0.0]}, "image_std"),
        ({"size": 8, "resample": 9}, "resample"),
        ({"size": 8, "rescale_factor": None}, "rescale_factor"),
        ({"size": 8, "do_pad": True}, "do_pad"),
        ({"size": 8, "do_center_crop": True}, "crop_size"),
    ],
)
def test_a_damaged_preprocessor_config_is_named_by_field(raw: dict[str, object], field: str) -> None:
    with pytest.raises(SourceUnreadable, match=f"preprocessor_config.json: {field}: "):
        parse(raw)


def test_sub_folders_give_labels_by_number_or_by_the_models_class_names(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.jpg")
    assert ready(tmp_path / "pets", model_dir=tmp_path).labels
    labels = [*written().labels, *written("held_out").labels]  # type: ignore[misc]
    assert sorted(labels) == [0] * 10 + [1] * 10
    (tmp_path / "pets" / "dog").rename(tmp_path / "pets" / "wolf")
    prepared = ready(tmp_path / "pets", model_dir=tmp_path)
    assert not prepared.labels
    assert any("'wolf' is no class" in text for text in prepared.warnings)


def test_layouts_channels_and_raw_pixels_follow_the_input(photos: Path) -> None:
    for shape, dtype in (
        ((None, 16, 16, 3), "float32"),
        ((1, 16, 16, 1), "float32"),
        ((1, 16, 16), "float32"),
    ):
        ready(photos, (IoFact("x", dtype, shape),))
        assert written().array("x").shape[1:] == shape[1:]
    ready(photos, (IoFact("x", "uint8", (1, 16, 16, 3)),))
    raw = written().array("x")
    assert raw.dtype == np.uint8
    assert raw.max() > 100


def test_a_recipe_of_another_size_than_the_input_is_an_error(photos: Path) -> None:
    (photos / "preprocess.toml").write_text("resize = [24, 24]")
    with pytest.raises(UsageError, match=r"photos/00.png: the image becomes \(3, 24, 24\)"):
        ready(photos)


def test_a_model_with_free_sizes_wants_to_be_told_one(photos: Path) -> None:
    free = (IoFact("x", "float32", ("batch", 3, "h", "w")),)
    with pytest.raises(UsageError, match=r"height and width are free.*resize = \[224, 224\]"):
        ready(photos, free)
    (photos / "preprocess.toml").write_text("resize = [24, 20]")
    ready(photos, free)
    assert written().array("x").shape[1:] == (3, 24, 20)


def test_photographs_are_set_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    (tmp_path / "turned").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "turned" / "a.png", exif=exif)
    Image.fromarray(pixels // 2).save(tmp_path / "turned" / "b.png")
    ready(tmp_path / "turned", (IoFact("x", "float32", (1, 3, 8, 16)),))
    bright = max(
        (written(n).array("x")[0] for n in ("calibration", "held_out")), key=lambda a: float(a.max())
    )
    assert bright[0, 0].tolist() == [0.0] * 8 + [1.0] * 8


def test_the_digits_as_png_files_give_back_their_pixels_and_classes(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number in range(300):
        folder = tmp_path / "digits" / str(digits.target[number])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(folder / f"{number:03}.png")
    (tmp_path / "digits" / "preprocess.toml").write_text(f"scale = {1 / 240}")
    prepared = ready(tmp_path / "digits", (IoFact("image", "float32", ("batch", 1, 8, 8)),))
    assert (prepared.samples, prepared.held_out, prepared.labels, prepared.warnings) == (240, 60, True, ())
    truth = {image.tobytes(): label for image, label in zip(digits.images[:300], digits.target, strict=False)}
    for name in ("calibration", "held_out"):
        each = written(name)
        for pixels, label in zip(each.array("image"), each.labels, strict=True):
            assert truth[np.round(pixels[0].astype(np.float64) * 16).tobytes()] == label


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that decodes to width × height pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    head = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9000, 9000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_with_too_many_pixels_is_refused_by_its_header(photos: Path, size: tuple[int, int]) -> None:
    (photos / "00.png").write_bytes(bomb(*size))
    with pytest.raises(UsageError, match=r"photos/00.png: the image has more than 67,108,864 pixels"):
        ready(photos)


def test_a_strip_that_resizing_would_blow_up_is_refused(photos: Path) -> None:
    Image.new("RGB", (1, 60_000)).save(photos / "00.png")
    (photos / "preprocess.toml").write_text("resize = 224\ncenter_crop = 16")
    with pytest.raises(UsageError, match="more than"):
        ready(photos)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", None])
def test_a_damaged_image_is_named(photos: Path, content: bytes | None) -> None:
    whole = (photos / "07.png").read_bytes()
    (photos / "07.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UsageError, match=r"photos/07.png: not readable as an image"):
        ready(photos)


def test_sixteen_bit_pixels_are_not_silently_clipped(photos: Path) -> None:
    Image.fromarray(np.full((16, 16), 4000, np.uint16)).save(photos / "00.png")
    with pytest.raises(UsageError, match="8 bits"):
        ready(photos)


def test_an_empty_folder_and_a_model_of_many_inputs_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no images"):
        ready(tmp_path / "empty")
    with pytest.raises(UsageError, match="one image input"):
        ready(photos, (*RGB, IoFact("scale", "float32", (1, 1))))


def test_value_range_is_that_of_black_and_white() -> None:
    recipe = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.1), channels="rgb", layout="nhwc")
    black, white = (recipe.apply(Image.new("RGB", (2, 2), (tone,) * 3)) for tone in (0, 255))
    assert recipe.value_range == pytest.approx((black.min(), white.max()), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("vit.image_processing_pil_vit.ViTImageProcessorPil", {"size": {"height": 32, "width": 48}}),
        ("convnext.image_processing_pil_convnext.ConvNextImageProcessorPil", {"size": {"shortest_edge": 64}}),
        (
            "convnext.image_processing_pil_convnext.ConvNextImageProcessorPil",
            {"size": {"shortest_edge": 384}},
        ),
        (
            "clip.image_processing_pil_clip.CLIPImageProcessorPil",
            {"size": {"shortest_edge": 30}, "crop_size": {"height": 33, "width": 28}},
        ),
        (
            "mobilenet_v2.image_processing_pil_mobilenet_v2.MobileNetV2ImageProcessorPil",
            {"size": {"shortest_edge": 40}, "crop_size": {"height": 31, "width": 31}},
        ),
    ],
)
@pytest.mark.parametrize("shape", [(50, 77), (77, 50), (20, 20)])
def test_pixels_are_those_of_transformers(
    family: str, settings: dict[str, object], shape: tuple[int, int]
) -> None:
    import importlib

    module, _, name = family.rpartition(".")
    processor = getattr(importlib.import_module(f"transformers.models.{module}"), name)(**settings)
    recipe = parse(json.loads(processor.to_json_string()))
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = processor(Image.fromarray(pixels))["pixel_values"][0]
    np.testing.assert_allclose(recipe.apply(Image.fromarray(pixels)), expected, rtol=0, atol=1e-6)
