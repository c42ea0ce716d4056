"""The general.* keys: name, size, licence and origin, from the model card, config.json and the folder's name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .....sources.files import jsonfile
from .....sources.files.containment import contained
from .....sources.files.jsonfile import Fields
from .....targets.errors import SourceUnreadable
from ..blueprint import Tensor
from .family import Family, Model

CARD_LIMIT = 8 << 20
FRONT_LIMIT = 256 << 10
"""Bytes of a README.md, and characters of its YAML front matter, that are read."""
_MEND = "Mend or remove README.md: only the artifact's own description comes from it"
_INTEGERS = ("top_k", "penalty_last_n", "mirostat")
_SAMPLING = {
    "sampling_sequence": ("sequence",),
    "sampling_top_k": ("top_k",),
    "sampling_top_p": ("top_p",),
    "sampling_min_p": ("min_p",),
    "sampling_xtc_probability": ("xtc_probability",),
    "sampling_xtc_threshold": ("xtc_threshold",),
    "sampling_temp": ("temperature",),
    "sampling_penalty_last_n": ("penalty_last_n",),
    "sampling_penalty_repeat": ("penalty_repeat", "repetition_penalty"),
    "sampling_mirostat": ("mirostat",),
    "sampling_mirostat_tau": ("mirostat_tau",),
    "sampling_mirostat_eta": ("mirostat_eta",),
}
"""Fields of gguf.Metadata, and of generation_config.json, whose first that is there gives the value."""


def add(model: Model, family: Family, writer: Any, tensors: Iterable[Tensor]) -> None:
    """Add general.* to a GGUFWriter; `tensors` count the parameters of the size label.

    Raises SourceUnreadable for a model card or generation_config.json that cannot be read.
    """
    import gguf

    counts = _count(family, tensors)
    named = {"_name_or_path": model.config.text("_name_or_path", "")} if _is_named(model) else {}
    metadata = gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(), _card(model.folder), named, model.folder, counts[0]
    )
    for field, value in _sampling(model.folder).items():
        setattr(metadata, field, value)
    _tidy(metadata)
    metadata.name = metadata.name or model.folder.name
    if metadata.size_label is None and counts[0] > 0:
        metadata.size_label = gguf.size_label(*counts)
    writer.add_type(gguf.GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)


def _is_named(model: Model) -> bool:
    return model.config.values.get("_name_or_path") is not None


def _count(family: Family, tensors: Iterable[Tensor]) -> tuple[int, int, int, int]:
    """Parameters in all, shared ones, those of one expert, and experts, as the gguf package counts them."""
    import gguf
    import numpy as np

    scratch = gguf.GGUFWriter(path=None, arch=gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[family.arch]])
    for tensor in tensors:
        scratch.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), 4 * tensor.elements)
    counts: tuple[int, int, int, int] = scratch.get_total_parameter_count()
    return counts


def _card(folder: Path) -> dict[str, Any]:
    """The YAML front matter of README.md; empty where there is none."""
    import yaml  # type: ignore[import-untyped]

    if not (folder / "README.md").exists():
        return {}
    path = contained(folder, "README.md", where=f"{folder.name}: README.md")
    if path.stat().st_size > CARD_LIMIT:
        raise SourceUnreadable(f"larger than the {CARD_LIMIT:,} bytes allowed", where=path.name, mend=_MEND)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        fact = f"not UTF-8 text at byte {error.start}"
        raise SourceUnreadable(fact, where=path.name, mend=_MEND) from None
    if not lines or lines[0] != "---":
        return {}
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    front = "\n".join(lines[1:end]) + "\n"
    if len(front) > FRONT_LIMIT:
        fact = f"the front matter is longer than the {FRONT_LIMIT:,} characters allowed"
        raise SourceUnreadable(fact, where=path.name, mend=_MEND)
    # As the converter reads it: Norway's language code is no boolean, and tabs indent.
    front = front.replace("- no\n", '- "no"\n').replace("\t", "  ")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(front, yaml.SafeLoader)):
            raise SourceUnreadable("the front matter uses YAML aliases", where=path.name, mend=_MEND)
        card = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fact = f"the front matter is not YAML: {' '.join(str(error).split())[:200]}"
        raise SourceUnreadable(fact, where=path.name, mend=_MEND) from None
    return card if isinstance(card, dict) else {}


def _sampling(folder: Path) -> dict[str, Any]:
    """The sampler's settings that generation_config.json recommends."""
    if not (folder / "generation_config.json").exists():
        return {}
    path = contained(folder, "generation_config.json", where=f"{folder.name}: generation_config.json")
    fields = Fields(jsonfile.read_object(path), path.name)
    found: dict[str, Any] = {}
    for target, keys in _SAMPLING.items():
        key = next((key for key in keys if fields.values.get(key) is not None), None)
        if key in _INTEGERS:
            found[target] = fields.integer(key, low=-(1 << 31), high=(1 << 31) - 1)
        elif key is not None:
            found[target] = fields.text(key) if key == "sequence" else fields.number(key)
    return found


def _tidy(metadata: Any) -> None:
    """Only clean texts, lists of them, and records of them: a card may hold any YAML in any place."""
    for field, value in vars(metadata).items():
        if field.startswith("sampling_"):
            continue
        if field in ("base_models", "datasets"):
            records = [record for record in value or () if isinstance(record, dict)]
            tidied: Any = [{str(k): t for k, v in r.items() if (t := _text(v)) is not None} for r in records]
        elif field in ("tags", "languages"):
            tidied = [text for item in value or () if (text := _text(item)) is not None]
        elif field == "license" and isinstance(value, list):
            tidied = ",".join(text for item in value if (text := _text(item)) is not None)
        else:
            tidied = _text(value)
        setattr(metadata, field, None if value is None else tidied)


def _text(value: Any) -> str | None:
    """A scalar as text without control characters; None for anything else."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    return "".join(letter for letter in str(value) if letter.isprintable() or letter in "\n\t")
