"""Counts a GGUF file: weights by stored type, and one token's multiply-accumulates by what llama.cpp multiplies in.

Its kernels for quantized blocks round the activations to 8 bits as they come and multiply integers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from ...sources.gguf import geometry
from ...sources.gguf.parts import Model, read_model
from ...sources.place import Place
from ...targets.facts import BLOCK_BITS
from . import Audit

TABLES = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
"""Roles of tensors of which a token reads one row; the first one is the head as well where there is no other."""


def count(path: Path) -> Audit:
    """Count the file at `path` (or all parts of a model whose first part it is) by its headers alone.

    Multiply-accumulates are those of one token through every matrix; of experts, as many as one token
    visits. Attention itself, whose cost grows with the context, is left out.
    """
    model = read_model(path)
    visited = _visited(model)
    tied = "output.weight" not in model.places
    weights: Counter[str] = Counter()
    macs: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    left: list[tuple[int, str]] = []
    for name, place in model.places.items():
        weights[place.dtype] += place.nbytes
        if sum(size > 1 for size in place.shape) < 2:
            continue
        role = _role(name)
        operators[role] += 1
        if place.dtype not in BLOCK_BITS:
            left.append((-place.nbytes, f"{place.dtype} {name!r}"))
        if role not in TABLES or (role == TABLES[0] and tied):
            share = visited if role.endswith("_exps") else Fraction(1)
            macs["int8" if place.dtype in BLOCK_BITS else place.dtype] += int(_elements(place) * share)
    return Audit(
        weight_bytes=dict(sorted(weights.items())),
        macs=dict(sorted(macs.items())),
        operators=dict(sorted(operators.items())),
        float_ops=tuple(name for _, name in sorted(left)),
        file_bytes=sum(file.stat().st_size for file in model.files),
    )


def _role(name: str) -> str:
    """What a tensor is in its layer: "blk.3.attn_q.weight" -> "attn_q"."""
    return re.sub(r"^blk\.\d+\.|\.(weight|bias)$", "", name)


def _elements(place: Place) -> int:
    total = 1
    for size in place.shape:
        total *= size
    return total


def _visited(model: Model) -> Fraction:
    """Share of the experts that one token visits."""
    keys: Mapping[str, object] = geometry.fields(model).values
    name = keys.get("general.architecture")
    used, experts = (keys.get(f"{name}.expert{part}_count") for part in ("_used", ""))
    if not isinstance(used, int) or not isinstance(experts, int) or not 0 < used <= experts:
        return Fraction(1)
    return Fraction(used, experts)
