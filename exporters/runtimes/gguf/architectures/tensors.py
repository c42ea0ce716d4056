"""The tensors of the file: each weight of the checkpoint under llama.cpp's name, or the reason to refuse it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from .....sources.huggingface import decoders
from .....targets.errors import SourceUnreadable, Unsupported
from ..blueprint import Tensor
from .family import Family, Model

DROPPED = (
    ".attention.masked_bias", ".attention.bias", ".attn.masked_bias", ".attn.bias", ".rotary_emb.inv_freq"
)  # fmt: skip
"""Endings of tensors that no runtime needs: causal masks and rotary frequencies, which old checkpoints keep."""
HEAD = "lm_head.weight"
_EXPERT = re.compile(r"(\.experts)\.\d+\.(\w+\.weight)$")


def listed(model: Model, family: Family, names: Collection[str] | None) -> tuple[Tensor, ...]:
    """Every tensor of the file. `names`: the checkpoint's; None for those that config.json implies.

    Raises SourceUnreadable for a weight that is missing, and Unsupported for one that has no place.
    """
    import gguf

    arch = gguf.MODEL_ARCH[family.arch]
    table = gguf.get_tensor_name_map(arch, model.facts.layers)
    found = [_tensor(model, family, table, *weight) for weight in _weights(model, family, names)]
    return (*family.computed(model), *_stacked(found))


def _stacked(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The matrices of a layer's experts as one tensor of three axes, at the place of the first."""
    grouped: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        grouped.setdefault(tensor.name, []).append(tensor)
    for first, *others in grouped.values():
        if "_exps." not in first.name:
            yield first
            continue
        parts = tuple(part for tensor in (first, *others) for part in tensor.parts)
        yield dataclasses.replace(first, shape=(len(parts), *first.shape), parts=parts)


def _weights(
    model: Model, family: Family, names: Collection[str] | None
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(full name, name in the checkpoint, shape) of each weight that is written."""
    base = decoders.base(model.config)
    wanted = decoders.expected(model.config, model.facts)
    if names is not None and HEAD in names:
        # A head that is stored though it is tied is written, as the converter does.
        wanted.setdefault(HEAD, (model.facts.vocab, model.facts.hidden))
    taken: set[str] = set()
    for name, shape in wanted.items():
        stored = name
        if names is not None:
            bare = name.removeprefix(base)
            stored = next((spelled for spelled in (name, bare) if spelled in names), "")
            if not stored:
                raise SourceUnreadable(f"{name} is missing", where="the weights")
            taken.add(stored)
        if name not in family.dropped:
            yield name, stored, shape
    for name in sorted(names or ()):
        if name not in taken and not name.endswith(DROPPED):
            raise Unsupported(
                f"config.json implies no weight {name[:200]!r}, and what it would do is not known",
                where="the weights",
                mend="Save the model again with transformers, which leaves it out",
            )


def _tensor(
    model: Model, family: Family, table: Any, name: str, stored: str, shape: tuple[int, ...]
) -> Tensor:
    import gguf

    # The table knows Mixtral's experts, once they are stacked, by another name.
    merged = _EXPERT.sub(r"\1.\2", name)
    renamed = re.sub(r"^model\.(layers\.\d+)\.block_sparse_moe\.experts", r"\1.feed_forward.experts", merged)
    found = table.get_type_and_name(renamed, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise Unsupported(f"the installed gguf package has no name for the weight {name!r}", where="gguf")
    kind, mapped = found
    transform, heads = family.transform(model, name)
    if transform == "transpose":
        shape = shape[::-1]
    always = (gguf.MODEL_TENSOR.POS_EMBD, gguf.MODEL_TENSOR.FFN_GATE_INP)
    float32 = (
        len(shape) < 2 or kind in always or mapped.endswith("_norm.weight") or not mapped.endswith(".weight")
    )
    return Tensor(mapped, shape, (stored,), transform, heads, float32=float32)
