"""Reads a folder of images, one at a time, through one `Preprocessing`."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..targets.errors import UsageError
from ..targets.facts import IoFact
from . import preprocess, preprocessor_config
from .model_files import config, label_ids
from .preprocess import CHANNELS, Preprocessing
from .reading import Reading, Sample, Wanted, choose

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 1 << 26
"""Largest image that is decoded, before and after resizing: 67 million pixels, 200 MB as RGB."""


def read(folder: Path, wanted: Wanted) -> Reading:
    """Every image in `folder` and its sub-folders, in the order of their names.

    Sub-folders named by class numbers, or by the class names in the model's config.json, give labels.
    Preprocessing comes from preprocess.toml in the folder or `<folder>.toml` beside it, else from the model's
    preprocessor_config.json, else it is assumed (resize to the input, scale to 0..1), with a warning.
    Turned photographs are set upright by their EXIF orientation, as transformers does.

    Raises UsageError naming the file: no images, damaged ones, too many pixels, sizes that do not fit.
    """
    target = image_input(wanted)
    files = _files(folder)
    recipe, notes = recipe_for(folder, target, wanted)
    labels, more = _labels(files, folder, wanted)
    chosen = choose(len(files), wanted.limit, wanted.seed)
    samples = _samples([files[index] for index in chosen], folder, target, recipe, labels)
    return Reading("images", samples, preprocessing=recipe, warnings=(*notes, *more))


def image_input(wanted: Wanted) -> IoFact:
    """The one input that images can be fed to; UsageError when there is none or there are others."""
    able = [io for io in wanted.inputs if io.shape is None or len(io.shape) in (3, 4)]
    if len(wanted.inputs) != 1 or not able:
        raise UsageError(
            f"images feed a model with one image input; this one takes {wanted.names}",
            where="--calibration",
            mend="Give an .npz with one array per input",
        )
    if able[0].dtype not in ("float32", "float16", "float64", "bfloat16", "uint8"):
        raise UsageError(
            f"images cannot be fed to {able[0].dtype}",
            where=f"input {able[0].name}",
            mend="Give an .npz with arrays of that dtype",
        )
    return able[0]


def recipe_for(folder: Path, io: IoFact, wanted: Wanted) -> tuple[Preprocessing, tuple[str, ...]]:
    """The recipe for `io`, its layout and channels settled, and warnings about what was assumed."""
    own = preprocessor_config.find(wanted.model_dir)
    toml = next((path for path in (folder / "preprocess.toml", toml_beside(folder)) if path.is_file()), None)
    recipe = preprocess.from_toml(toml) if toml is not None else own
    assumed = recipe is None
    recipe = recipe if recipe is not None else Preprocessing(scale=1.0 if io.dtype == "uint8" else 1 / 255)
    layout, channels = _settle(recipe, io)
    spatial = _spatial(io, layout)
    if assumed:
        if not all(isinstance(size, int) for size in spatial):
            raise UsageError(
                f"the input's height and width are free: {io.shape}",
                where=f"input {io.name}",
                mend="Say the size in a preprocess.toml in the folder: resize = [224, 224]",
            )
        recipe = dataclasses.replace(recipe, resize=spatial)  # type: ignore[arg-type]
    dtype = "uint8" if io.dtype == "uint8" else recipe.dtype
    recipe = dataclasses.replace(recipe, layout=layout, channels=channels, dtype=dtype)
    if len(recipe.mean) == 3 and channels == "gray":
        raise UsageError("three means for an input of one channel", where=f"{recipe.origin}: mean")
    if io.dtype == "uint8" and (recipe.mean or recipe.scale != 1):
        raise UsageError(
            "the input takes raw pixels (uint8), and the recipe scales them",
            where=f"{recipe.origin}: scale",
            mend='Write dtype = "uint8" and no mean and std into preprocess.toml',
        )
    return recipe, _warnings(recipe, own, assumed)


def toml_beside(data: Path) -> Path:
    """`<data>.toml`, beside the data."""
    return data.with_name(data.name + ".toml")


def _warnings(recipe: Preprocessing, own: Preprocessing | None, assumed: bool) -> tuple[str, ...]:
    if assumed:
        scaled = "left at 0..255" if recipe.scale == 1 else "scaled to 0..1"
        return (
            "the model does not say how its images are prepared: they were assumed to be "
            f"{recipe.channels}, resized to {recipe.resize}, {scaled}. If the model was trained otherwise, write "
            "a preprocess.toml into the folder",
        )
    if own is not None and own.channels == "bgr" and recipe.channels == "rgb":
        return (f"{recipe.origin} reads rgb, and the model's {preprocessor_config.FILE} asks for bgr",)
    if own is not None and own.channels is None and recipe.channels == "bgr":
        return (f"{recipe.origin} reads bgr, and the model's {preprocessor_config.FILE} asks for rgb",)
    return ()


def _settle(recipe: Preprocessing, io: IoFact) -> tuple[str, str]:
    """(layout, channels) that fit the input; UsageError where the recipe says otherwise."""
    shape = io.shape if io.shape is not None else (None,) * 4
    if len(shape) == 3:
        if recipe.channels in ("rgb", "bgr"):
            raise UsageError(
                f"{recipe.channels} for an input without channels: {shape}",
                where=f"{recipe.origin}: channels",
            )
        return "nhwc", "gray"
    possible = [
        (layout, size)
        for layout, size in (("nchw", shape[1]), ("nhwc", shape[3]))
        if recipe.layout in (None, layout) and (size in (1, 3) or not isinstance(size, int))
    ]
    fixed = [(layout, size) for layout, size in possible if isinstance(size, int)]
    if not possible:
        raise UsageError(
            f"no axis of {shape} holds 1 or 3 channels where {recipe.layout or 'nchw or nhwc'} has them",
            where=f"input {io.name}",
            mend="Give an .npz of arrays that fit",
        )
    layout, size = (fixed or possible)[0]
    channels = recipe.channels or ("gray" if size == 1 else "rgb")
    if isinstance(size, int) and CHANNELS[channels] != size:
        raise UsageError(
            f"{channels} has {CHANNELS[channels]} channels, and input {io.name} takes {size}",
            where=f"{recipe.origin}: channels",
        )
    return layout, channels


def _spatial(io: IoFact, layout: str) -> tuple[int | str | None, ...]:
    """The input's (height, width)."""
    if io.shape is None:
        return (None, None)
    if len(io.shape) == 3:
        return io.shape[1:]
    return io.shape[2:] if layout == "nchw" else io.shape[1:3]


def _files(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise UsageError(
            "the folder holds no images",
            where=str(folder),
            mend=f"Put files ending in {', '.join(SUFFIXES)} there, or name an .npz, .jsonl or .txt file",
        )
    return files


def _labels(files: list[Path], folder: Path, wanted: Wanted) -> tuple[dict[Path, int], tuple[str, ...]]:
    """Class numbers by file, from the names of sub-folders; nothing unless every file has one."""
    known = label_ids(config(wanted.model_dir))
    found: dict[Path, int] = {}
    unknown = None
    for path in files:
        parts = path.relative_to(folder).parts
        name = parts[0] if len(parts) > 1 else None
        if name is not None and name in known:
            found[path] = known[name]
        elif name is not None and name.isdecimal() and name.isascii():
            found[path] = int(name)
        else:
            unknown = unknown or name
    if len(found) == len(files):
        return found, ()
    if found:
        return {}, (f"sub-folder {unknown!r} is no class of the model, so no labels were read",)
    return {}, ()


def _samples(
    files: list[Path], folder: Path, io: IoFact, recipe: Preprocessing, labels: dict[Path, int]
) -> Generator[Sample, None, None]:
    flat = io.shape is not None and len(io.shape) == 3
    fixed = io.shape[1:] if io.shape is not None else ()
    for path in files:
        where = path.relative_to(folder.parent).as_posix()
        array = recipe.apply(_load(path, where, recipe))
        array = array[..., 0] if flat else array
        if any(
            isinstance(size, int) and size != have for size, have in zip(fixed, array.shape, strict=False)
        ):
            raise UsageError(
                f"the image becomes {array.shape}, and input {io.name} takes {fixed}",
                where=where,
                mend=f"Correct resize or center_crop ({recipe.origin}), or write a preprocess.toml",
            )
        yield Sample({io.name: array}, where, labels.get(path))


def _load(path: Path, where: str, recipe: Preprocessing) -> Any:
    """The decoded first frame, upright; its header is checked before any pixel is decoded."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            _check_size(image.height, image.width, where, recipe)
            if image.mode.startswith(("I", "F")):
                raise UsageError(
                    f"pixels of mode {image.mode}, not of 8 bits",
                    where=where,
                    mend="Convert the image to 8 bits",
                )
            image.load()
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise _too_large(where) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise UsageError(
            f"not readable as an image: {error}", where=where, mend="Remove or replace the file"
        ) from None


def _check_size(height: int, width: int, where: str, recipe: Preprocessing) -> None:
    after = (height, width)
    if isinstance(recipe.resize, int):
        after = preprocess.resized(height, width, recipe.resize)
    if height * width > MAX_PIXELS or math.prod(after) > MAX_PIXELS:
        raise _too_large(where)


def _too_large(where: str) -> UsageError:
    return UsageError(
        f"the image has more than {MAX_PIXELS:,} pixels", where=where, mend="Shrink it, or remove the file"
    )
