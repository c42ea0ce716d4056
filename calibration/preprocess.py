"""How an image file becomes the model's input: resize, crop, scale, normalise, channel order and layout."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ..targets.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    Array = np.ndarray[Any, Any]

RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""Filters by name, with Pillow's numbers (which preprocessor_config.json uses too)."""
LAYOUTS = ("nchw", "nhwc")
CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
DTYPES = ("float32", "float16", "uint8")


@dataclass(frozen=True)
class Preprocessing:
    """One image recipe; steps run in the order of the fields. Every use of images goes through `apply`."""

    resize: tuple[int, int] | int | None = None
    """(height, width), or the length of the shorter edge with the aspect ratio kept."""
    resample: str = "bilinear"
    center_crop: tuple[int, int] | None = None
    """(height, width); smaller images are padded with zeros, as transformers does."""
    scale: float = 1 / 255
    """Factor on pixel values of 0 to 255."""
    mean: tuple[float, ...] = ()
    """Subtracted per channel after scaling, in the order of `channels`; empty for none."""
    std: tuple[float, ...] = ()
    channels: str | None = None
    """A key of `CHANNELS`; None takes gray for one-channel inputs and rgb otherwise."""
    layout: str | None = None
    """One of `LAYOUTS`; None takes the input's."""
    dtype: str = "float32"
    origin: str = "assumed"
    """Where the recipe comes from: a file name, or "assumed"."""

    def to_dict(self) -> dict[str, Any]:
        """This recipe as JSON values, for the manifest."""
        return asdict(self)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that comes out, where the recipe alone decides it."""
        if self.center_crop is not None:
            return self.center_crop
        return self.resize if isinstance(self.resize, tuple) else None

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest value that a pixel can become."""
        means, stds = self.mean or (0.0,), self.std or (1.0,)
        if len(stds) == 1:
            stds = stds * len(means)
        if len(means) == 1:
            means = means * len(stds)
        pairs = list(zip(means, stds, strict=True))
        ends = [(0.0 - mean) / std for mean, std in pairs] + [(255 * self.scale - m) / s for m, s in pairs]
        return min(ends), max(ends)

    def apply(self, image: Image.Image) -> Array:
        """One image as an array of shape (C, H, W) or (H, W, C), by `layout`.

        The arithmetic and its order are those of transformers' Pillow image processors, to the last bit of
        float32 rounding.
        """
        import numpy as np

        image = image.convert("L" if self.channels == "gray" else "RGB")
        if self.resize is not None:
            height, width = resized(image.height, image.width, self.resize)
            image = image.resize((width, height), resample=RESAMPLE[self.resample])
        pixels: Array = np.asarray(image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if self.center_crop is not None:
            pixels = _center_crop(pixels, *self.center_crop)
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        if self.scale != 1 or self.mean or self.std or self.dtype != "uint8":
            pixels = (pixels * self.scale).astype(np.float32)
        if self.mean:
            pixels = pixels - np.asarray(self.mean, np.float32)
        if self.std:
            pixels = pixels / np.asarray(self.std, np.float32)
        if self.layout != "nhwc":
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels, dtype=self.dtype)


def from_toml(path: Path) -> Preprocessing:
    """The recipe that a user wrote beside the data, with the field names of `Preprocessing` as keys.

    Raises UsageError naming file and key for a key that is unknown or a value that does not fit.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"not readable as TOML: {error}", where=path.name) from None
    return _checked(raw, path.name)


_KNOWN = ("resize", "resample", "center_crop", "scale", "mean", "std", "channels", "layout", "dtype")


def _checked(raw: Mapping[str, Any], file: str) -> Preprocessing:
    for key in raw:
        if key not in _KNOWN:
            raise UsageError("unknown key", where=f"{file}: {key}", mend=f"Known are {', '.join(_KNOWN)}")
    channels = _choice(raw, "channels", tuple(CHANNELS), None, file)
    mean, std = (_per_channel(raw, key, channels, file) for key in ("mean", "std"))
    dtype = _choice(raw, "dtype", DTYPES, "float32", file) or "float32"
    scale = raw.get("scale", 1 if dtype == "uint8" else 1 / 255)
    if not is_number(scale) or scale <= 0:
        raise UsageError(f"{scale!r} is not a number above zero", where=f"{file}: scale")
    if any(value <= 0 for value in std):
        raise UsageError("every value must be above zero", where=f"{file}: std")
    if dtype == "uint8" and (scale != 1 or mean or std):
        raise UsageError("uint8 pixels cannot be scaled or normalised", where=f"{file}: dtype")
    return Preprocessing(
        resize=_size(raw, "resize", file),
        resample=_choice(raw, "resample", tuple(RESAMPLE), "bilinear", file) or "bilinear",
        center_crop=_square(_size(raw, "center_crop", file)),
        scale=float(scale),
        mean=mean,
        std=std,
        channels=channels,
        layout=_choice(raw, "layout", LAYOUTS, None, file),
        dtype=dtype,
        origin=file,
    )


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _choice(
    raw: Mapping[str, Any], key: str, known: tuple[str, ...], default: str | None, file: str
) -> str | None:
    value: str | None = raw.get(key, default)
    if value is not default and value not in known:
        raise UsageError(f"{value!r} is not known", where=f"{file}: {key}", mend=f"Use {', '.join(known)}")
    return value


def _size(raw: Mapping[str, Any], key: str, file: str) -> tuple[int, int] | int | None:
    value: Any = raw.get(key)
    if value is None:
        return None
    match value if isinstance(value, list) else [value]:
        case [int(edge)] if _is_edge(edge):
            return edge
        case [int(height), int(width)] if _is_edge(height) and _is_edge(width):
            return height, width
    raise UsageError(
        f"{value!r} is not a size", where=f"{file}: {key}", mend="Give [height, width] or one number"
    )


def _is_edge(value: int) -> bool:
    return not isinstance(value, bool) and 0 < value <= 1 << 14


def _square(size: tuple[int, int] | int | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _per_channel(raw: Mapping[str, Any], key: str, channels: str | None, file: str) -> tuple[float, ...]:
    value = raw.get(key, [])
    values = value if isinstance(value, list) else [value]
    allowed = {1, CHANNELS[channels]} if channels else {1, 3}
    if not all(is_number(item) for item in values) or (values and len(values) not in allowed):
        raise UsageError(f"{value!r} is not one number per channel", where=f"{file}: {key}")
    return tuple(float(item) for item in values)


def resized(height: int, width: int, size: tuple[int, int] | int) -> tuple[int, int]:
    """(height, width) after resizing; with one number the longer edge is rounded down, as transformers does."""
    if isinstance(size, tuple):
        return size
    short, long = sorted((height, width))
    scaled = max(1, int(size * long / short))
    return (scaled, size) if width <= height else (size, scaled)


def _center_crop(pixels: Array, height: int, width: int) -> Array:
    """The middle of an (H, W, C) image; an image that is too small is padded with zeros, the odd pixel first."""
    import numpy as np

    short = [max(0, wanted - have) for wanted, have in zip((height, width), pixels.shape, strict=False)]
    if any(short):
        pads = [((missing + 1) // 2, missing // 2) for missing in short]
        pixels = np.pad(pixels, [*pads, (0, 0)])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
