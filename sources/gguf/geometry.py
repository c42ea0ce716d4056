"""The figures of a decoder from a GGUF file's keys, checked against its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...targets.errors import SourceUnreadable, Unsupported
from ...targets.facts import LlmFacts
from ..files.jsonfile import Fields
from ..place import Place
from .parts import Model
from .values import value

OTHER_KINDS: Mapping[str, tuple[str, str]] = {
    "imatrix": ("an importance matrix and no model", "Give it with --imatrix"),
    "adapter": ("an adapter, which changes another model's weights", "Merge it first (llama-export-lora)"),
    "mmproj": ("the image or sound part of a model", "Name the language model's own file"),
    "vocab": ("a vocabulary without weights", "Name the file with the weights"),
    "controlvector": ("a control vector and no model", "Name the model's own file"),
}
"""What `general.type` may say besides "model"."""
NO_DECODERS = ("t5", "t5encoder", "clip", "wavtokenizer-dec")
"""Architectures that are no decoder-only language models and do not say so in a key."""

MAX_LAYERS = 10_000
LONGEST_LIST = 10_000
"""Items of an array that is decoded for its figures: one for each layer."""


def fields(model: Model) -> Fields:
    """Typed access to the keys whose values are single or have an item for each layer, not the vocabulary."""
    small = (entry for entry in model.entries if (entry.items or 0) <= LONGEST_LIST)
    return Fields({entry.key: value(entry) for entry in small if len(entry.raw) < 1 << 20}, _file(model))


def _file(model: Model) -> str:
    return model.files[0].name


def architecture(keys: Fields) -> str:
    """`general.architecture`. Raises SourceUnreadable and Unsupported for what is no language model."""
    kind = keys.text("general.type", "model")
    if kind != "model":
        fact, mend = OTHER_KINDS.get(kind, (f"of kind {kind!r} and no model", ""))
        raise SourceUnreadable(f"this file is {fact}", where=keys.where("general.type"), mend=mend)
    name = keys.text("general.architecture")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise SourceUnreadable(f"{name!r} is no name", where=keys.where("general.architecture"))
    causal = keys.flag(f"{name}.attention.causal", True)
    if name in NO_DECODERS or not causal:
        raise Unsupported(
            f"{name} is no decoder-only language model",
            where=keys.where("general.architecture"),
            mend="Start from the Hugging Face directory",
        )
    return name


def read(model: Model) -> LlmFacts:
    """The figures that memory and speed follow from.

    Where layers differ (lists in the keys), the largest one counts. Raises SourceUnreadable for keys that
    are missing, of another type or that contradict the tensors.
    """
    keys = fields(model)
    name = architecture(keys)
    if not model.places:
        fact, mend = OTHER_KINDS["vocab"]
        raise SourceUnreadable(f"this file is {fact}", where=keys.file, mend=mend)
    hidden = keys.integer(f"{name}.embedding_length", high=1 << 24)
    layers = keys.integer(f"{name}.block_count", high=MAX_LAYERS)
    heads = _largest(keys, f"{name}.attention.head_count", high=1 << 16)
    facts = LlmFacts(
        architecture=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_largest(keys, f"{name}.attention.head_count_kv", heads, high=1 << 16),
        head_dim=keys.integer(f"{name}.attention.key_length", max(1, hidden // heads), high=1 << 16),
        intermediate=_largest(keys, f"{name}.feed_forward_length", 4 * hidden, high=1 << 24),
        vocab=_vocabulary(model, keys, name),
        context=keys.integer(f"{name}.context_length", high=1 << 32),
        tied_embeddings="output.weight" not in model.places,
        experts=keys.integer(f"{name}.expert_count", 0, low=0, high=1 << 16),
        experts_per_token=keys.integer(f"{name}.expert_used_count", 0, low=0, high=1 << 16),
    )
    _check_tensors(model.places, facts, keys)
    return facts


def _largest(keys: Fields, key: str, default: int | None = None, *, high: int) -> int:
    """An integer, or the largest of a list with one for each layer (0 where a layer has none)."""
    found: Any = keys.values.get(key)
    if isinstance(found, list):
        if not found or not all(type(item) is int and 0 <= item <= high for item in found):
            raise SourceUnreadable(f"integers from 0 to {high} are expected", where=keys.where(key))
        found = max(found)
    given = Fields({**keys.values, key: found}, keys.file)
    return given.integer(key, high=high) if default is None else given.integer(key, default, high=high)


def _vocabulary(model: Model, keys: Fields, name: str) -> int:
    """Tokens of the vocabulary: as many as stand in the file, or as the model's own key says."""
    # A model without a tokenizer cannot be run, and so not be verified.
    keys.text("tokenizer.ggml.model")
    tokens = next((entry for entry in model.entries if entry.key == "tokenizer.ggml.tokens"), None)
    if tokens is not None and tokens.items:
        return tokens.items
    return keys.integer(f"{name}.vocab_size", high=1 << 28)


def _check_tensors(places: Mapping[str, Place], facts: LlmFacts, keys: Fields) -> None:
    """The table and every layer must be there, the table in the shape that the keys imply."""
    table = places.get("token_embd.weight")
    if table is None:
        raise SourceUnreadable("the tensor token_embd.weight is missing", where=keys.file)
    if table.shape != (facts.vocab, facts.hidden):
        fact = f"shape {list(table.shape)}, where the keys imply {[facts.vocab, facts.hidden]}"
        raise SourceUnreadable(fact, where=f"{keys.file}: token_embd.weight")
    numbered = (re.match(r"blk\.(\d+)\.", name) for name in places)
    there = {int(found[1]) for found in numbered if found}
    lacking = next((index for index in range(facts.layers) if index not in there), None)
    if lacking is not None:
        fact = f"{facts.layers} layers are declared, and layer {lacking} has no tensors"
        raise SourceUnreadable(fact, where=keys.where(f"{facts.architecture}.block_count"))
