"""Tiny Hugging Face folders of encoders, written without transformers, whole or damaged."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from modelport import sources
from modelport.sources import huggingface
from modelport.sources.huggingface import checkpoint
from modelport.targets.errors import ModelportError, SourceUnreadable

BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
}
VIT: dict[str, Any] = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
    "id2label": {"0": "cat", "1": "dog", "2": "bird"},
}


def safetensors_bytes(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    header, position = {}, 0
    for name, shape in tensors.items():
        size = 4
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(position)


def weights_of(folder: Path) -> dict[str, tuple[int, ...]]:
    traced = huggingface._trace(folder, checkpoint.read_config(folder), 1)
    assert traced is not None
    return dict(traced[0].weights)


def write(folder: Path, config: Any, **changes: tuple[int, ...] | None) -> Path:
    """A checkpoint with every weight that config implies; `changes` reshape or drop weights by a part of the name."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    tensors = weights_of(folder)
    for part, shape in changes.items():
        name = next(name for name in tensors if part in name)
        tensors.pop(name)
        if shape is not None:
            tensors[name] = shape
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder


def shard(folder: Path, edit: Any = None) -> Path:
    """The same checkpoint in two shards with an index, which `edit` may change."""
    tensors = weights_of(folder)
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    weight_map = {}
    for number, part in enumerate((names[:5], names[5:])):
        file = f"model-{number}.safetensors"
        (folder / file).write_bytes(safetensors_bytes({name: tensors[name] for name in part}))
        weight_map.update(dict.fromkeys(part, file))
    if edit:
        edit(weight_map)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def refused(folder: Path, words: str, kind: type[ModelportError] = SourceUnreadable) -> None:
    with pytest.raises(kind, match=words):
        sources.open_source(folder)
