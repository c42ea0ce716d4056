"""What the model's own small JSON files say that data must agree with: vocabulary, labels, longest input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..targets.errors import SourceUnreadable

MAX_JSON_BYTES = 16 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or an empty one when there is no such file.

    Raises SourceUnreadable for a file that is too large or is not a JSON object.
    """
    if not path.is_file():
        return {}
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise SourceUnreadable(
            f"{size:,} bytes are more than the {MAX_JSON_BYTES:,} allowed", where=path.name
        )
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceUnreadable(f"not valid JSON: {error}", where=path.name) from None
    if not isinstance(raw, dict):
        raise SourceUnreadable("not a JSON object", where=path.name)
    return raw


def config(model_dir: Path | None) -> dict[str, Any]:
    """The model's config.json, or {}."""
    return read_json(model_dir / "config.json") if model_dir is not None else {}


def whole(raw: dict[str, Any], key: str) -> int | None:
    """`raw[key]` where it is a positive whole number, else None."""
    value = raw.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def label_ids(raw: dict[str, Any]) -> dict[str, int]:
    """Class number by class name, from config.json's id2label; {} when it has none."""
    names = raw.get("id2label")
    if not isinstance(names, dict):
        return {}
    return {str(name): int(number) for number, name in names.items() if str(number).isdigit()}


def longest_sequence(model_dir: Path) -> int | None:
    """Most tokens that the model takes, by its config and tokenizer; None when nothing says so."""
    raw = config(model_dir)
    limits = [
        whole(read_json(model_dir / "tokenizer_config.json"), "model_max_length"),
        whole(read_json(model_dir / "sentence_bert_config.json"), "max_seq_length"),
    ]
    positions = whole(raw, "max_position_embeddings") or whole(raw, "n_positions")
    if positions is not None and raw.get("model_type") in _OFFSET_POSITIONS:
        # These families number positions from the padding id + 1 upwards.
        positions -= (whole(raw, "pad_token_id") or 0) + 1
    limits.append(positions)
    # Tokenizers without a limit write a number like 1e30.
    known = [limit for limit in limits if limit is not None and limit < 1 << 24]
    return min(known, default=None)


_OFFSET_POSITIONS = {
    "roberta",
    "xlm-roberta",
    "camembert",
    "mpnet",
    "longformer",
    "xlm-roberta-xl",
    "data2vec-text",
}
