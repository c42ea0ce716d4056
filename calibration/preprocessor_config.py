"""Reads transformers' preprocessor_config.json into a `Preprocessing`, old and new spellings alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..targets.errors import SourceUnreadable
from .model_files import read_json
from .preprocess import RESAMPLE, Preprocessing, is_number

FILE = "preprocessor_config.json"

_MEND = "Describe the preprocessing in a preprocess.toml in the folder of images instead"
_SQUARE = ("vit", "deit", "beit", "swin", "siglip", "efficientnet", "mobilevit")
"""Families whose old files mean a square when `size` is one number; others mean the shorter edge."""
_UNSUPPORTED = (
    "do_pad",
    "rescale_offset",
    "include_top",
    "do_thumbnail",
    "do_align_long_axis",
    "do_image_splitting",
)
_FILTERS = {number: name for name, number in RESAMPLE.items()}


def find(model_dir: Path | None) -> Preprocessing | None:
    """The model's own recipe, or None when it has no preprocessor_config.json for images.

    Raises SourceUnreadable naming the field that is damaged or that asks for a step that is not offered.
    """
    raw = read_json(model_dir / FILE) if model_dir is not None else {}
    if not raw or not any(key in raw for key in ("image_mean", "size", "do_resize", "image_processor_type")):
        return None
    return parse(raw)


def parse(raw: Mapping[str, Any]) -> Preprocessing:
    """The recipe in the object of a preprocessor_config.json.

    A step whose `do_...` switch is missing runs when its parameters are given, and scaling by 1/255 always:
    what the processors that wrote such files did by default.
    """
    for key in _UNSUPPORTED:
        if raw.get(key):
            raise SourceUnreadable("this step is not offered", where=f"{FILE}: {key}", mend=_MEND)
    family = str(raw.get("image_processor_type", raw.get("feature_extractor_type", ""))).lower()
    resize = _resize(raw, family) if _does(raw, "do_resize", "size") else None
    crop = _box(raw, "crop_size") if _does(raw, "do_center_crop", "crop_size") else None
    if family.startswith("convnext") and isinstance(resize, int):
        resize, crop = _convnext(raw, resize, crop)
    normalises = _does(raw, "do_normalize", "image_mean")
    return Preprocessing(
        resize=resize,
        resample=_resample(raw),
        center_crop=crop,
        scale=_scale(raw) if raw.get("do_rescale", True) else 1.0,
        mean=_channels(raw, "image_mean") if normalises else (),
        std=_channels(raw, "image_std") if normalises else (),
        channels="bgr" if raw.get("do_flip_channel_order") else None,
        origin=FILE,
    )


def _does(raw: Mapping[str, Any], switch: str, parameter: str) -> bool:
    value = raw.get(switch)
    return bool(value) if value is not None else raw.get(parameter) is not None


def _refuse(raw: Mapping[str, Any], key: str, what: str) -> SourceUnreadable:
    return SourceUnreadable(f"{raw.get(key)!r} is not {what}", where=f"{FILE}: {key}", mend=_MEND)


def _edge(value: object) -> bool:
    return type(value) is int and 0 < value <= 1 << 14


def _resize(raw: Mapping[str, Any], family: str) -> tuple[int, int] | int:
    size = raw.get("size")
    if isinstance(size, Mapping) and set(size) - {"height", "width"} == {"shortest_edge"}:
        size = size["shortest_edge"]
        if _edge(size):
            return int(size)
    elif _edge(size) and isinstance(size, int):
        return (size, size) if family.startswith(_SQUARE) else size
    return _box(raw, "size")


def _box(raw: Mapping[str, Any], key: str) -> tuple[int, int]:
    value = raw.get(key)
    if isinstance(value, int):
        value = {"height": value, "width": value}
    elif isinstance(value, list) and len(value) == 2:
        value = dict(zip(("height", "width"), value, strict=True))
    if not isinstance(value, Mapping) or not _edge(value.get("height")) or not _edge(value.get("width")):
        raise _refuse(raw, key, "a height and width of 1 to 16384")
    return value["height"], value["width"]


def _convnext(
    raw: Mapping[str, Any], edge: int, crop: tuple[int, int] | None
) -> tuple[tuple[int, int] | int, tuple[int, int] | None]:
    """ConvNeXt's rule: below 384 resize to edge / crop_pct and crop, from 384 on squeeze to a square."""
    share = raw.get("crop_pct", 224 / 256)
    share = 224 / 256 if share is None else share
    if edge >= 384:
        return (edge, edge), crop
    if not is_number(share) or not 0 < share <= 1:
        raise _refuse(raw, "crop_pct", "a share of 0 to 1")
    return int(edge / share), (edge, edge)


def _resample(raw: Mapping[str, Any]) -> str:
    value = raw.get("resample")
    if value is None:
        return "bilinear"
    if type(value) is not int or value not in _FILTERS:
        raise _refuse(raw, "resample", "a Pillow filter of 0 to 5")
    return _FILTERS[value]


def _scale(raw: Mapping[str, Any]) -> float:
    value: object = raw.get("rescale_factor", 1 / 255)
    if not is_number(value) or value <= 0:
        raise _refuse(raw, "rescale_factor", "a number above zero")
    return float(value)


def _channels(raw: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = raw.get(key)
    given = value if isinstance(value, list) else [value]
    values = tuple(float(item) for item in given if is_number(item))
    if len(given) not in (1, 3) or len(values) != len(given):
        raise _refuse(raw, key, "one number per channel")
    if key == "image_std" and min(values) <= 0:
        raise _refuse(raw, key, "above zero")
    return values
